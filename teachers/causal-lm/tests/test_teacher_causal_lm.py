"""The teacher `causal-lm` on tiny folders: signals, identity, description, and its errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import kdtool
import pytest
import torch
from kdtool_export.gguf.files import write_gguf
from kdtool_teacher_causal_lm import CausalLM
from kdtool_testing import TeacherConformance, make_run, write_toy_model
from kdtool_testing.model_checks import no_model_is_built
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import open_model


class TestCausalLM(TeacherConformance):
    component = CausalLM
    entry_point = "causal-lm"
    settings: ClassVar[dict[str, str]] = {"model": "owner/name"}

    def prepare(self, folder: Path) -> Mapping[str, str]:
        return {"model": str(write_toy_model(folder / "model")), "dtype": "float32"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")


def _batch() -> kdtool.Batch:
    ids = torch.randint(257, (2, 20), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, 15:] = -100
    positions = torch.arange(20).expand(2, -1)
    return kdtool.Batch(ids, positions, labels, torch.zeros(2, 20, dtype=torch.int32), ("a", "b"))


def test_signals_are_the_models_and_can_be_learned_from(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    teacher = CausalLM(CausalLM.Config(model=str(tmp_path / "model"), dtype="float32"))
    want = kdtool.SignalRequest(frozenset({"logits", "hidden", "attentions", "projections"}), layers=(0, 3))
    batch = _batch()
    signal = teacher.kdtool_signal(batch, want)
    assert signal.lazy is not None
    expected = model.model(input_ids=batch.input_ids).logits[:, :15].reshape(30, -1)
    torch.testing.assert_close(signal.lazy.head.logits(signal.lazy.hidden), expected.detach(), rtol=1e-4, atol=1e-4)
    assert {layer: tuple(states.shape) for layer, states in signal.hidden.items()} == {0: (30, 32), 3: (30, 32)}
    assert tuple(signal.attentions[3].shape) == (2, 4, 20, 20)
    assert [tuple(heads.shape) for heads in signal.projections[3]] == [(2, 20, 32), (2, 20, 16), (2, 20, 16)]
    for tensor in (signal.lazy.hidden, signal.lazy.head.weight, signal.hidden[0]):
        assert not tensor.requires_grad
    weight = torch.ones(32, requires_grad=True)
    torch.autograd.backward((signal.lazy.hidden @ weight).sum())  # fails on tensors of inference mode
    assert weight.grad is not None


def test_only_what_is_wanted_is_given(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    teacher = CausalLM(CausalLM.Config(model=str(tmp_path / "model"), dtype="float32"))
    signal = teacher.kdtool_signal(_batch(), kdtool.SignalRequest(frozenset({"hidden"}), layers=(1,)))
    assert (signal.lazy, list(signal.hidden), signal.attentions, signal.projections) == (None, [1], {}, {})


def test_description_and_tokenizer_need_no_weights(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    facts = model.facts
    (tmp_path / "model" / "model.safetensors").unlink()
    teacher = CausalLM(CausalLM.Config(model=str(tmp_path / "model"), dtype="float32"))
    run = make_run(tmp_path, {"teacher": teacher})
    assert teacher.kdtool_tokenizer(run).fingerprint == model.tokenizer.fingerprint
    assert teacher.kdtool_describe(run) == facts
    assert next(iter(teacher.kdtool_estimate(run, kdtool.RunForecast()))).host_bytes >= 2 * facts.parameters


def test_identity_follows_the_weights(tmp_path: Path) -> None:
    save_tiny(tmp_path / "one")
    save_tiny(tmp_path / "two", seed=1)
    run = make_run(tmp_path)
    found = [CausalLM(CausalLM.Config(model=str(tmp_path / name))).kdtool_identity(run) for name in ("one", "two")]
    assert found[0]["weights"] != found[1]["weights"]


def test_identity_follows_the_tokenizer_and_needs_no_model(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    run = make_run(tmp_path)
    with no_model_is_built():
        before = CausalLM(CausalLM.Config(model=str(tmp_path))).kdtool_identity(run)
        (tmp_path / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
        after = CausalLM(CausalLM.Config(model=str(tmp_path))).kdtool_identity(run)
    assert {name for name in before if before[name] != after[name]} == {"tokenizer"}


def test_it_opens_itself_answers_and_names_its_licence(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# a card\n", encoding="utf-8")
    teacher = CausalLM(CausalLM.Config(model=str(tmp_path / "model"), dtype="float32"))
    run = make_run(tmp_path, {"teacher": teacher})
    assert teacher.licence_terms == kdtool.LicenceTerms("MIT")
    assert teacher.kdtool_open(run, kdtool.Subject("student", "student", tmp_path)) is None
    runtime = teacher.kdtool_open(run, kdtool.Subject("teacher", "teacher"))
    assert runtime is not None
    with runtime:
        assert runtime.model is not None
    (answer,) = teacher.kdtool_answer([kdtool.Request("1", "def", 4)])
    assert answer.tokens_in == 3
    teacher.kdtool_close()


def test_mistakes_are_explained(tmp_path: Path) -> None:
    run = make_run(tmp_path, offline=True)
    save_tiny(tmp_path / "model")
    for settings, told in (
        ({"model": str(tmp_path / "absent")}, "no such folder"),
        ({"model": str(tmp_path / "absent.gguf")}, "no such file"),
        ({"model": "owner/name"}, "hf download owner/name"),
        ({"model": str(tmp_path / "model"), "revision": "main"}, "belongs to Hub names"),
    ):
        with pytest.raises(kdtool.KdtoolError, match=told):
            CausalLM(CausalLM.Config.model_validate(settings)).kdtool_identity(run)


def test_a_configuration_that_does_not_fit_is_refused_before_a_run(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(
        config.read_text("utf-8").replace('"num_key_value_heads": 2', '"num_key_value_heads": 4'), "utf-8"
    )
    teacher = CausalLM(CausalLM.Config(model=str(tmp_path / "model")))
    with pytest.raises(kdtool.UsageError, match=r"model/config\.json: it does not match the weights"):
        teacher.kdtool_describe(make_run(tmp_path, {"teacher": teacher}))


def test_a_gguf_file_is_converted_once(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", vocabulary=258, hidden_size=64, head_dim=16)
    file = write_gguf(source, tmp_path / "tiny.gguf", pre="smollm")
    run = make_run(tmp_path)
    said: list[str] = []
    for _ in range(2):
        teacher = CausalLM(CausalLM.Config(model=str(file), dtype="bfloat16"))
        place = teacher.locate(make_run(tmp_path, say=said.append)).place
    assert len(said) == 1
    model = open_model(place)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected, found = (each.model.to(torch.float32)(input_ids=ids).logits for each in (source, model))
    assert float((found - expected).square().mean().sqrt() / expected.std()) < 0.05
    text = "x  12\n\té"
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert teacher.licence_terms == kdtool.LicenceTerms("Apache-2.0")
    assert teacher.kdtool_identity(run)["dtype"] == "bfloat16"
