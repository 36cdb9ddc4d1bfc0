"""Drafts are counted by prompt, timed against the teacher alone, and left out with a sentence where they cannot draft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
from kdtool_evaluator_speculation import SpeculationEvaluator
from kdtool_testing import EvaluatorConformance, Opener, make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersModel, TransformersRuntime, TransformersTokenizer

TEACHER = kdtool.Subject("teacher", "teacher", None)
STUDENT = kdtool.Subject("student", "student", Path("nowhere"), 0)
CONTROL = kdtool.Subject("control", "control", Path("nowhere"), 0)
EXAMPLES = [
    kdtool.Example(f"{number}", kdtool.Text(f"def f{number}(x):\n    return x\n" * 9), split="test")
    for number in range(4)
]


class Counted(TransformersRuntime):
    """Counts calls of `close`."""

    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


class TinyModels(Opener):
    """Opens subjects as tiny models of transformers."""

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        if super().kdtool_open(run, subject) is None:
            return None
        self.opened[-1] = Counted(tiny_model(layers=1, seed=sum(subject.name.encode())))  # type: ignore[call-overload]
        return self.opened[-1]


class TestSpeculation(EvaluatorConformance):
    component = SpeculationEvaluator
    entry_point = "speculation"
    repeatable = False

    def opener(self, *refused: str) -> TinyModels:
        return TinyModels(*refused)

    def prepare(self, folder: Path) -> dict[str, Any]:
        return {"limit": 3, "maximum_tokens": 6}


class ByName(kdtool.Exporter):
    """Opens subjects by name, each time anew."""

    def __init__(self, **models: TransformersModel | kdtool.Runtime) -> None:
        super().__init__(self.Config())
        self.models = models

    def kdtool_export(self, run: kdtool.RunInfo, trained: Any) -> Any:
        raise NotImplementedError

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        found = self.models.get(subject.name)
        return TransformersRuntime(found) if isinstance(found, TransformersModel) else found


class Foreign(kdtool.Runtime):
    def answer(self, requests: Any) -> Any:
        raise NotImplementedError


def evaluate(
    folder: Path, said: list[str], *subjects: kdtool.Subject, **models: TransformersModel | kdtool.Runtime
) -> dict[tuple[str, str], kdtool.Measurement]:
    run = make_run(folder, {"any": ByName(**models)}, EXAMPLES, say=said.append)
    evaluator = SpeculationEvaluator(SpeculationEvaluator.Config(maximum_tokens=10, characters=60, drafted=4))
    return {(found.name, found.subject): found for found in evaluator.kdtool_evaluate(run, subjects)}


def test_a_draft_that_equals_the_teacher_is_accepted_and_another_hardly(tmp_path: Path) -> None:
    said: list[str] = []
    found = evaluate(
        tmp_path,
        said,
        STUDENT,
        TEACHER,
        CONTROL,
        teacher=tiny_model(),
        student=tiny_model(),
        control=tiny_model(seed=5),
    )
    assert not said
    accepted = found["speculation.accepted", "student"]
    assert (accepted.value, accepted.n, accepted.low, accepted.high) == (5.0, 4, 5.0, 5.0)
    other = found["speculation.accepted", "control"]
    assert 1 <= other.value < 3
    assert accepted.items is not None
    assert other.items is not None
    items = [json.loads(line) for line in accepted.items.read_text("utf-8").splitlines()]
    assert [(item["sum"], item["weight"]) for item in items] == [(10, 2)] * 4
    controls = [json.loads(line)["item"] for line in other.items.read_text("utf-8").splitlines()]
    assert controls == [item["item"] for item in items]
    assert accepted.settings == other.settings
    speed = found["speculation.speed-up", "student"]
    assert speed.value > 0
    assert speed.items is None
    assert speed.settings["machine"].startswith("cpu, ")
    assert speed.settings["answers equal to the teacher's"] == "4 of 4"


def test_who_cannot_draft_is_said_and_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    other = tiny_model()
    other.tokenizer.inner.add_tokens(["<other>"])
    other.tokenizer = TransformersTokenizer(other.tokenizer.inner)
    models = (TEACHER, STUDENT, CONTROL)
    assert evaluate(tmp_path, said, *models, teacher=tiny_model(), student=Foreign(), control=other) == {}
    assert "student is left out, it is not a model of transformers" in said[0]
    assert "control is left out: the draft's vocabulary" in said[1]


def test_nothing_is_measured_without_a_teacher(tmp_path: Path) -> None:
    said: list[str] = []
    assert evaluate(tmp_path, said, STUDENT, student=tiny_model()) == {}
    assert "no teacher" in said[0]
