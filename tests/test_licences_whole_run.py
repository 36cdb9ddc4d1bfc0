"""Licences in a whole run: refused without a word, and with it told in results, report and model card, and on from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest

LLAMA = "Llama 3.2 Community License"


@pytest.fixture
def licensed(recipe: dict[str, Any], teacher_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The small recipe with one step, of a teacher whose folder names a licence."""
    folder = tmp_path / "licensed"
    shutil.copytree(teacher_folder, folder)
    (folder / "README.md").write_text("---\nlicense: llama3.2\n---\n", encoding="utf-8")
    recipe["teacher"]["model"] = str(folder)
    recipe["train"] = {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 1}
    return {key: value for key, value in recipe.items() if key not in {"control", "evaluators", "signals"}}


def test_terms_are_asked_about_recorded_and_go_on(licensed: dict[str, Any]) -> None:
    with pytest.raises(kdtool.RecipeError) as refused:
        kdtool.run(licensed)
    assert f'terms_acknowledged: {{teacher: "{LLAMA}"}}' in str(refused.value)
    assert not Path("runs", "small").exists()

    results = kdtool.run({**licensed, "terms_acknowledged": {"teacher": LLAMA}})
    found = {each.component: each for each in results.licences}
    assert found["teacher"].transfers == ("signals", "weights")
    assert (found["teacher"].acknowledged, found["teacher"].forbidden) == (LLAMA, ())
    assert found["corpus"].transfers == ("text",)
    recorded = json.loads((results.folder / "results.json").read_text(encoding="utf-8"))["licences"]
    assert {entry["component"]: entry["acknowledged"] for entry in recorded} == {"corpus": "", "teacher": LLAMA}
    assert results.report is not None
    report = results.report.read_text(encoding="utf-8")
    assert f"acknowledged: {LLAMA}" in report
    assert "signals, weights" in report
    (artifact,) = results.arms[0].artifacts
    card = (artifact.path / "README.md").read_text(encoding="utf-8")
    assert "# Llama-small\n" in card
    assert "> Built with Llama\n" in card
    assert "Copyright © Meta Platforms" in (artifact.path / "NOTICE").read_text(encoding="utf-8")

    # who trains on from the exported student is asked about the same terms
    further = {**licensed, "student": {"use": "pretrained", "model": str(artifact.path)}, "name": "further"}
    further["train"] = {"losses": {"ce": {}}, "steps": 1}
    del further["teacher"]
    with pytest.raises(kdtool.RecipeError) as again:
        kdtool.check(further)
    assert f'terms_acknowledged: {{student: "Python-2.0 AND {LLAMA}"}}' in str(again.value)


def test_terms_that_forbid_the_teaching_refuse_another_student(licensed: dict[str, Any], teacher_folder: Path) -> None:
    (Path(licensed["teacher"]["model"]) / "README.md").write_text("---\nlicense: llama2\n---\n", encoding="utf-8")
    other = {**licensed, "student": {"use": "pretrained", "model": str(teacher_folder)}}
    with pytest.raises(kdtool.RecipeError, match="forbids what this recipe does"):
        kdtool.check(other)
    own = {**licensed, "terms_acknowledged": {"teacher": "Llama 2 Community License"}}
    assert kdtool.check(own)["licences"][1]["forbidden"] == []
    alone = {**other, "train": {"losses": {"ce": {}}, "steps": 1}}
    assert [entry["transfers"] for entry in kdtool.check(alone)["licences"]] == [["text"], []]
