"""The teacher `causal-lm` on tiny folders: signals, identity, description and licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
import torch
from kdtool_export.gguf.files import write_gguf
from kdtool_teacher_causal_lm import CausalLM
from kdtool_testing import TeacherConformance, make_run, write_toy_model
from kdtool_testing.model_checks import no_model_is_built
from kdtool_testing.tiny_models import packed_batch, save_tiny
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


def _teacher(model: Path, **settings: Any) -> CausalLM:
    return CausalLM(CausalLM.Config(model=str(model), **settings))


def test_signals_are_the_models_own(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    batch = packed_batch()
    batch = replace(batch, labels=torch.where(torch.arange(48) < 15, batch.labels, -100))
    signal = _teacher(tmp_path / "model", dtype="float32").kdtool_signal(
        batch, kdtool.SignalRequest(frozenset({"logits", "hidden"}), layers=(3,))
    )
    assert signal.lazy is not None
    expected = model.model(input_ids=batch.input_ids[:, :24]).logits[:, :15].reshape(30, -1)
    torch.testing.assert_close(signal.lazy.head.logits(signal.lazy.hidden), expected.detach(), rtol=1e-4, atol=1e-4)
    assert tuple(signal.hidden[3].shape) == (30, 32)


def test_description_and_tokenizer_need_no_weights(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    facts = model.facts
    (tmp_path / "model" / "model.safetensors").unlink()
    teacher = _teacher(tmp_path / "model", dtype="float32")
    run = make_run(tmp_path, {"teacher": teacher})
    assert teacher.kdtool_tokenizer(run).fingerprint == model.tokenizer.fingerprint
    assert teacher.kdtool_describe(run) == facts
    assert next(iter(teacher.kdtool_estimate(run, kdtool.RunForecast()))).host_bytes >= 2 * facts.parameters


def test_identity_follows_the_weights_and_the_tokenizer_and_needs_no_model(tmp_path: Path) -> None:
    save_tiny(tmp_path / "one")
    save_tiny(tmp_path / "two", seed=1)
    run = make_run(tmp_path)
    with no_model_is_built():
        one, two = (_teacher(tmp_path / name).kdtool_identity(run) for name in ("one", "two"))
        (tmp_path / "one" / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
        changed = _teacher(tmp_path / "one").kdtool_identity(run)
    for other, key in ((two, "weights"), (changed, "tokenizer")):
        assert {name for name in one if one[name] != other[name]} == {key}


def test_its_licence_is_the_models_and_a_revision_belongs_to_hub_names(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# a card\n", encoding="utf-8")
    assert _teacher(tmp_path / "model").licence_terms == kdtool.LicenceTerms("MIT")
    with pytest.raises(kdtool.UsageError, match="belongs to Hub names"):
        _teacher(tmp_path / "model", revision="main").kdtool_identity(make_run(tmp_path))


def test_a_gguf_file_is_converted_once(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", vocabulary=258, hidden_size=64, head_dim=16)
    file = write_gguf(source, tmp_path / "tiny.gguf", pre="smollm")
    run = make_run(tmp_path)
    said: list[str] = []
    for _ in range(2):
        teacher = _teacher(file, dtype="bfloat16")
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
