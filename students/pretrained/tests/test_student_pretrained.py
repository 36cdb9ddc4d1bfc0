"""The student `pretrained`: it begins as the model that is named, whatever family that is, and opens plainly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import kdtool
import pytest
import torch
import transformers
from kdtool_student_pretrained import Pretrained
from kdtool_testing import StudentConformance, make_run, write_toy_model
from kdtool_testing.tiny_models import save_tiny
from kdtool_torch import self_check
from kdtool_transformers import open_model
from kdtool_transformers.card import known_terms


class TestPretrained(StudentConformance):
    component = Pretrained
    entry_point = "pretrained"
    settings: ClassVar[dict[str, str]] = {"model": "owner/name"}

    def prepare(self, folder: Path) -> Mapping[str, str]:
        return {"model": str(write_toy_model(folder / "model"))}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")


def _student(model: Path | str, **settings: Any) -> Pretrained:
    return Pretrained(Pretrained.Config(model=str(model), **settings))


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2", "gpt2", "gemma2"])
def test_it_begins_as_the_model_and_opens_plainly(family: str, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", family)
    student, run = _student(tmp_path / "model"), make_run(tmp_path)
    built = student.kdtool_build_student(run)
    assert student.kdtool_describe(run).facts == built.facts == source.facts
    self_check(built)
    built.save(tmp_path / "student")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, source.model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("stored", "dtype", "kept"),
    [("bfloat16", "auto", "bfloat16"), ("float32", "auto", "float32"), ("bfloat16", "float32", "float32")],
)
def test_it_keeps_the_dtype_of_the_weights_unless_float32_is_asked_for(
    stored: str, dtype: str, kept: str, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model").model.to(getattr(torch, stored)).save_pretrained(tmp_path / "model")
    student, run = _student(tmp_path / "model", dtype=dtype), make_run(tmp_path)
    built = student.kdtool_build_student(run)
    outline = student.kdtool_describe(run)
    for model in (built, outline):
        assert {parameter.dtype for parameter in model.model.parameters()} == {getattr(torch, kept)}
    assert all(parameter.requires_grad for parameter in built.model.parameters())
    assert (outline.facts, built.facts.dtype) == (built.facts, kept)


def test_it_is_known_what_it_was_built_from_until_it_is_trained(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    built = _student(tmp_path / "model").kdtool_build_student(make_run(tmp_path))
    built.save(tmp_path / "untrained")
    untrained = open_model(tmp_path / "untrained")
    assert untrained.base == str((tmp_path / "model").resolve())
    untrained.save(tmp_path / "trained")
    assert open_model(tmp_path / "trained").base == ""


def test_it_remembers_which_layers_it_was_copied_from(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model")
    source.copied_layers = (0, 2, 5, 7)
    source.save(tmp_path / "model")
    student = _student(tmp_path / "model")
    built = student.kdtool_build_student(make_run(tmp_path))
    assert built.facts.copied_layers == (0, 2, 5, 7)
    assert student.kdtool_describe(make_run(tmp_path)).facts.copied_layers == (0, 2, 5, 7)


def test_identity_follows_the_weights_and_the_tokenizer(tmp_path: Path) -> None:
    save_tiny(tmp_path / "one")
    save_tiny(tmp_path / "two", seed=1)
    run = make_run(tmp_path)
    one, two, again = (_student(tmp_path / name).kdtool_identity(run) for name in ("one", "two", "one"))
    assert one == again
    (tmp_path / "one" / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    changed = _student(tmp_path / "one").kdtool_identity(run)
    for other, key in ((two, "weights"), (changed, "tokenizer")):
        assert {name for name in one if one[name] != other[name]} == {key}


def test_its_licence_is_the_models(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    assert _student(tmp_path / "model").licence_terms is None
    (tmp_path / "model" / "README.md").write_text("---\nlicense: bigcode-openrail-m\n---\n", encoding="utf-8")
    assert _student(tmp_path / "model").licence_terms == known_terms("bigcode-openrail-m")
    assert _student("bigcode/starcoder2-3b").licence_terms == known_terms("bigcode-openrail-m")
    hub = _student("somebody/model").licence_terms
    assert hub is not None
    assert hub.url == "https://huggingface.co/somebody/model"


def test_shapes_of_published_models_are_known_before_they_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    run = make_run(tmp_path, offline=True)
    facts = _student("meta-llama/Llama-3.2-1B").kdtool_describe(run).facts
    assert (facts.parameters, facts.dtype, facts.tokenizer_fingerprint) == (1_235_814_400, "bfloat16", "")
    with pytest.raises(kdtool.ServiceError, match="hf download somebody/model"):
        _student("somebody/model").kdtool_describe(run)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    content = json.loads(config.read_text(encoding="utf-8")) | {
        "quantization_config": {"quant_method": "gptq", "bits": 4}
    }
    config.write_text(json.dumps(content), encoding="utf-8")
    student, run = _student(tmp_path / "model"), make_run(tmp_path)
    for hook in (student.kdtool_describe, student.kdtool_build_student):
        with pytest.raises(kdtool.UsageError, match=r"are quantised \(gptq\).*give the model that they were made from"):
            hook(run)


def test_a_revision_belongs_to_hub_names(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    with pytest.raises(kdtool.UsageError, match="belongs to Hub names"):
        _student(tmp_path / "model", revision="main").kdtool_identity(make_run(tmp_path))
