"""The whole way on a tiny real teacher: from text to a report and an exported student; swapping, an own loss."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest


@pytest.fixture(scope="module")
def finished(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> kdtool.Results:
    """One finished run with two seeds, shared by the tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    return kdtool.run(small_recipe, {"seeds": [0, 1]}, out=folder / "runs", store=folder / "store")


def test_run_measures_teacher_student_and_controls_and_writes_one_report(finished: kdtool.Results) -> None:
    subjects = {(subject.role, subject.seed) for subject in finished.subjects}
    trained = {(role, seed) for role in ("student", "control") for seed in (0, 1)}
    assert subjects == {("teacher", None), ("artifact", 0), *trained}
    names = {measurement.name for measurement in finished.measurements}
    assert {"perplexity", "bits-per-byte"} <= names
    assert {comparison.against for comparison in finished.comparisons} >= {"control", "control-time"}
    assert finished.report is not None
    page = finished.report.read_text(encoding="utf-8")
    assert "forward-kl" in page
    assert "<script src" not in page


def test_exported_student_opens_with_transformers_alone(finished: kdtool.Results) -> None:
    (artifact,) = finished.arms[0].artifacts
    assert str(artifact.path) in artifact.how_to_use
    page = finished.report.read_text(encoding="utf-8") if finished.report else ""
    used = page.split('<section id="use"')[1]
    assert "exports/safetensors" in used
    own = artifact.path.relative_to(finished.folder).as_posix()
    assert own not in used, "the lines to copy name the path without a fingerprint"
    code = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1]); tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('def add(a, b):', return_tensors='pt').input_ids\n"
        "assert torch.isfinite(model(ids).logits).all()\n"
        "assert not [name for name in sys.modules if name.startswith('kdtool')]\n"
        "print(model.config.num_hidden_layers, model.generate(ids, max_new_tokens=4).shape[1] - ids.shape[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, artifact.path], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "3"


def test_losses_fall_and_every_term_is_in_the_history(finished: kdtool.Results) -> None:
    history = finished.arms[0].histories["train"]
    assert set(history[0].terms) == {"forward-kl", "ce", "hidden"}
    assert history[-1].terms["ce"].value < history[0].terms["ce"].value
    assert any(report.terms["forward-kl"].gradient_norm for report in history)


def test_teacher_is_swapped_by_settings_alone(
    recipe: dict[str, Any], other_teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = kdtool.run(recipe, {"control": "false", "evaluators": "false"})
    swapped = kdtool.run(
        recipe,
        {"control": "false", "evaluators": "false", "teacher.model": str(other_teacher_folder), "name": "swapped"},
    )
    reused = {stage.name.partition("/")[0]: stage.reused for stage in swapped.stages}
    assert reused["text"]
    assert not reused["rows"]
    assert not reused["signals"]
    assert first.models["student"].vocabulary != swapped.models["student"].vocabulary


GUIDE = (Path(__file__).resolve().parent.parent / "docs" / "write-a-loss.md").read_text(encoding="utf-8")
FOCAL = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "class FocalKL" in block)


def _own(recipe: dict[str, Any], text: str) -> dict[str, Any]:
    Path("focal.py").write_text(text, encoding="utf-8")
    losses = {"focal": {"use": "./focal.py:FocalKL", "gamma": 1.0}, "ce": {}}
    plain = {key: value for key, value in recipe.items() if key not in {"evaluators", "exporters", "control"}}
    return {**plain, "train": {"losses": losses, "steps": 4}}


def test_own_loss_in_a_file_trains_and_is_shown(recipe: dict[str, Any]) -> None:
    results = kdtool.run(_own(recipe, FOCAL))
    assert set(results.arms[0].histories["train"][0].terms) == {"focal", "ce"}
    assert results.report is not None
    assert "focal" in results.report.read_text(encoding="utf-8")
