"""The exporter `safetensors`: parity, size, model card, and opening again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_export.safetensors import Safetensors
from kdtool_export.shared import drawn_logits
from kdtool_testing import ExporterConformance, make_run
from kdtool_testing.tiny_models import save_tiny, tiny_model
from kdtool_transformers import TransformersModel, TransformersRuntime, open_model
from kdtool_transformers.card import known_terms, terms_of
from safetensors.torch import load_file


class TestSafetensors(ExporterConformance):
    component = Safetensors
    entry_point = "safetensors"


_APACHE = kdtool.Licensed(
    "teacher", kdtool.LicenceTerms("Apache-2.0", "https://example.org", ("name the source",)), ("signals",)
)


def export(folder: Path, *licences: kdtool.Licensed, **fields: Any) -> kdtool.Artifact:
    """Export a tiny student of a run with these licences."""
    save_tiny(folder / "trained")
    run = make_run(folder / "run", licences=licences, **fields)
    return Safetensors(Safetensors.Config()).kdtool_export(run, folder / "trained")


@pytest.mark.parametrize(
    ("dtype", "stored"), [("bfloat16", torch.bfloat16), ("float16", torch.float16), ("same", torch.float32)]
)
@pytest.mark.parametrize("fast", [True, False])
def test_the_export_opens_again_in_its_dtype_where_that_is_fast(
    dtype: Any, stored: torch.dtype, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool_torch.device._bfloat16_is_faster", lambda device: fast)
    trained = save_tiny(tmp_path / "trained")
    trained.copied_layers = (0, 1, 2, 3)
    trained.save(tmp_path / "trained")
    exporter = Safetensors(Safetensors.Config(dtype=dtype))
    run = make_run(tmp_path / "run", licences=(_APACHE,))
    artifact = exporter.kdtool_export(run, tmp_path / "trained")
    assert artifact.bytes == sum(file.stat().st_size for file in artifact.path.iterdir())
    subject = kdtool.Subject("export", "artifact", artifact.path)
    assert exporter.kdtool_open(run, kdtool.Subject("student", "student", artifact.path)) is None
    assert exporter.kdtool_open(run, kdtool.Subject("other", "artifact", tmp_path)) is None
    runtime = exporter.kdtool_open(run, subject)
    assert runtime is not None
    with runtime:
        assert runtime.model is not None
        assert open_model(artifact.path, offline=True).model.dtype == stored
        assert runtime.model.model.dtype == (stored if fast else torch.float32)
        assert runtime.model.facts.copied_layers == (0, 1, 2, 3)
        score, expected = next(runtime.score(["def f"])), next(TransformersRuntime(trained).score(["def f"]))
        assert score.log_likelihood == pytest.approx(expected.log_likelihood, rel=0.05)


def test_the_card_names_licence_and_use_and_its_lines_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = export(tmp_path, _APACHE)
    assert "\nlicense: apache-2.0\n" in artifact.card.partition("\n---\n")[0]
    assert "name the source" in artifact.card
    exec(artifact.how_to_use.replace("{path}", str(artifact.path)), {})  # noqa: S102 - the lines that a user would copy
    assert capsys.readouterr().out.startswith("def fibonacci")
    unlicensed = export(tmp_path / "unlicensed").card
    assert "license: other" in unlicensed
    assert "check before you publish" in unlicensed


def test_the_card_carries_on_what_the_terms_ask_for(tmp_path: Path) -> None:
    said = "Llama 3.2 Community License"
    llama = kdtool.Licensed("student", known_terms("llama3.2"), ("weights",), acknowledged=said)
    rail = kdtool.Licensed("teacher", known_terms("bigcode-openrail-m"), ("signals",), acknowledged="…")
    unused = kdtool.Licensed("teachers.other", kdtool.LicenceTerms("Own terms", restrictions=("none of ours",)))
    artifact = export(tmp_path, llama, rail, unused, name="web")
    folder, card = artifact.path, artifact.card
    (folder / "README.md").write_text(card, encoding="utf-8")
    assert "\n# Llama-web\n" in card
    assert "\n> Built with Llama\n" in card
    assert "machine generated" in card
    assert "`teachers.other`: Own terms\n  - the model takes nothing of it\n" in card
    assert "none of ours" not in card
    assert (folder / "NOTICE").read_text(encoding="utf-8").splitlines() == list(llama.terms.notices)
    # whoever trains on from here is under the same terms
    again = terms_of(str(folder))
    assert again is not None
    assert again.licence == "Llama 3.2 Community License AND BigCode OpenRAIL-M v1"
    assert set(again.restrictions) == {*llama.terms.restrictions, *rail.terms.restrictions}
    assert again.name_prefix == "Llama"


def test_the_card_says_what_was_done_against_the_terms(tmp_path: Path) -> None:
    said = "Llama 2 Community License, with permission for signals"
    card = export(tmp_path, kdtool.Licensed("teacher", known_terms("llama2"), ("signals",), ("signals",), said)).card
    assert f"the terms forbid taking signals; the maker of this model states: {said}" in card
    assert "\nlicense: llama2\n" in card.partition("\n---\n")[0]


def compared(folder: Path, trained: TransformersModel, written: Path, dtype: torch.dtype) -> tuple[str, str]:
    exporter = Safetensors(Safetensors.Config())
    expected = drawn_logits(trained.model, trained.head.vocabulary)
    return exporter._compare(make_run(folder), expected, expected, written, trained.model.dtype, dtype)


def test_an_export_that_deviates_is_refused(tmp_path: Path) -> None:
    trained = save_tiny(tmp_path / "trained")
    save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(kdtool.PluginError, match="differs from the trained one"):
        compared(tmp_path, trained, tmp_path / "other", torch.float32)
    said, open_in = compared(tmp_path, trained, tmp_path / "trained", torch.float32)
    assert "by 0.0e+00 standard" in said
    assert open_in == "float32"


def test_a_student_that_rounding_moves_far_is_exported_and_that_is_said(tmp_path: Path) -> None:
    trained, said = tiny_model(), list[str]()
    for name, weight in trained.model.named_parameters():
        weight.data *= (
            1000.0 if "q_proj" in name or "k_proj" in name else 1.0
        )  # attention takes one position or another
    trained.save(tmp_path / "trained")
    artifact = Safetensors(Safetensors.Config()).kdtool_export(
        make_run(tmp_path, say=said.append), tmp_path / "trained"
    )
    (line,) = said
    assert line.startswith("safetensors: rounded to bfloat16, the student's logits deviate by ")
    assert "open it in float32" in artifact.card


@pytest.mark.parametrize(("dtype", "written"), [("same", "bfloat16"), ("bfloat16", "bfloat16"), ("float32", "float32")])
def test_a_student_of_bfloat16_is_written_without_a_change(dtype: Any, written: str, tmp_path: Path) -> None:
    trained = tiny_model()
    trained.model.to(torch.bfloat16)
    trained.save(tmp_path / "trained")
    artifact = Safetensors(Safetensors.Config(dtype=dtype)).kdtool_export(make_run(tmp_path), tmp_path / "trained")
    assert f"Weights in {written}; logits deviate from the trained model's by 0.0e+00" in artifact.card
    stored, before = (load_file(folder / "model.safetensors") for folder in (artifact.path, tmp_path / "trained"))
    assert all(weight.dtype == getattr(torch, written) for weight in stored.values())
    assert all(weight.to(torch.bfloat16).equal(before[name]) for name, weight in stored.items())
