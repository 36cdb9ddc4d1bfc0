"""A phase trains the teacher first: it then teaches, and is copied from, with what it learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow

ADAPT = {
    "trains": "teacher",
    "losses": {"ce": {}},
    "transforms": {"lora": {"r": 4, "alpha": 32}},
    "trainer": {"learning_rate": 2e-2},
    "steps": 12,
}


@pytest.fixture(scope="module")
def adapting(small_recipe: dict[str, Any]) -> dict[str, Any]:
    """The small recipe with a teacher that is adapted first, with LoRA."""
    return {
        **small_recipe,
        "name": "adapting",
        "train": {"adapt": ADAPT, "distil": {**small_recipe["train"], "steps": 4}},
        "evaluators": {"perplexity": {"documents": 2, "characters": 200}, "agreement": {"documents": 2}},
    }


@pytest.fixture(scope="module")
def finished(adapting: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> kdtool.Results:
    """One finished run of it, shared by the tests that only look at it."""
    folder = tmp_path_factory.mktemp("adapting")
    return kdtool.run(adapting, {"seeds": [0, 1]}, out=folder / "runs", store=folder / "store")


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_teacher_is_measured_before_and_after(finished: kdtool.Results) -> None:
    perplexity = {found.subject: found.value for found in finished.measurements if found.name == "perplexity"}
    assert perplexity["teacher"] < 0.9 * perplexity["teacher.unadapted"]
    assert {subject.role for subject in finished.subjects if subject.name.startswith("teacher")} == {"teacher"}
    agreement = {found.subject for found in finished.measurements if found.name == "kl-to-teacher"}
    assert agreement == {"student-seed0", "student-seed1", "control-seed0", "control-seed1"} | {
        f"control-time-seed{seed}" for seed in (0, 1)
    }


def test_student_and_control_are_cut_from_what_the_teacher_learnt(
    finished: kdtool.Results, teacher_folder: Path
) -> None:
    store = Path(next(stage.path for stage in finished.stages if stage.name == "students")).parents[1]
    (learnt,) = store.glob("teachers/*/model")
    (student,) = store.glob("students/*/model")
    own, adapted, copied = weights(teacher_folder), weights(learnt), weights(student)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert copied[name].equal(adapted[name])
    assert not copied[name].equal(own[name])
    assert copied["model.embed_tokens.weight"].equal(own["model.embed_tokens.weight"]), "lora leaves it"


def test_signals_are_of_what_the_teacher_learnt(finished: kdtool.Results, teacher_folder: Path) -> None:
    from kdtool_transformers import weights_identity

    store = Path(next(stage.path for stage in finished.stages if stage.name == "students")).parents[1]
    (head,), (learnt,) = store.glob("signals/*/teacher.json"), store.glob("teachers/*/model")
    told_by = json.loads(head.read_text(encoding="utf-8"))["fingerprint"]
    assert told_by == weights_identity(learnt) != weights_identity(teacher_folder)


def test_results_and_report_show_the_phase(finished: kdtool.Results) -> None:
    (teacher,) = (arm for arm in finished.arms if arm.arm == "teacher")
    assert teacher.seed == 0
    assert teacher.phases["adapt"].steps == ADAPT["steps"]
    assert teacher.histories["adapt"][-1].loss < teacher.histories["adapt"][0].loss
    assert finished.report is not None
    page = finished.report.read_text(encoding="utf-8")
    assert "Teacher, unadapted" in page
    assert "Teacher, seed 0, adapt" in page
    assert page.index("Phase adapt") < page.index("Phase distil")


def test_rows_follow_the_tokenizer_of_whom_a_phase_trains(adapting: dict[str, Any], other_teacher_folder: Path) -> None:
    student = {"use": "gpt", "layers": 1, "hidden": 64, "heads": 1, "tokenizer": str(other_teacher_folder)}
    train = {"adapt": ADAPT, "finetune": {"losses": {"ce": {}}, "steps": 2}}
    recipe = {**adapting, "student": student, "train": train, "signals": False, "evaluators": False}
    names = [stage.name for stage in kdtool.plan(recipe)]
    assert [name for name in names if name.startswith(("text", "rows"))] == ["text", "rows/adapt", "rows"]
    same = {**recipe, "student": {key: value for key, value in student.items() if key != "tokenizer"}}
    assert [stage.name for stage in kdtool.plan(same) if stage.name.startswith("rows")] == ["rows"]
