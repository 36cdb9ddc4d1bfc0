"""Students, controls and scores depend on the teachers and the text that they use, and on no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
from toy_recipe import Recipe, use

OWN = """
import kdtool
import toy


class Wordy(toy.Scholar):
    class Config(kdtool.Config):
        words: int = 1
        shown: int = kdtool.Field(default=1, json_schema_extra=kdtool.does_not_affect_results())


class Spelling(toy.Scholar):
    class Config(kdtool.Config):
        words: int = 1
        tokenizer: str = "bytes"

    def kdtool_tokenizer(self, run):
        tokenizer = toy.Bytes()
        tokenizer.fingerprint = self.config.tokenizer
        return tokenizer


class Spells(kdtool.Evaluator):
    def kdtool_evaluate(self, run, subjects):
        value = float(len(run.component("teachers.big", kdtool.Teacher).kdtool_tokenizer(run).fingerprint))
        for subject in subjects:
            yield kdtool.Measurement("spells", subject.name, "points", value, 1, True)


class Cut(toy.Student):
    class Config(kdtool.Config):
        source: str = "teachers.big"
        declared: bool = True

    def __init__(self, config):
        super().__init__(config)
        self.derives_from = {config.source: "weights"} if config.declared else {}

    def kdtool_build_student(self, run):
        teacher = run.component(self.config.source, kdtool.Teacher)
        with teacher.kdtool_open(run, kdtool.Subject(self.config.source, "teacher")) as runtime:
            return toy.Unigram(runtime.model.model)


class Spelled(toy.Student):
    def kdtool_build_student(self, run):
        run.component("teachers.big", kdtool.Teacher).kdtool_tokenizer(run)
        return super().kdtool_build_student(run)


class All(toy.Nats):
    measures_jointly = True

    def kdtool_evaluate(self, run, subjects):
        for subject in subjects:
            yield kdtool.Measurement("all", subject.name, "nats", 1.0, 1, False)


class Likeness(kdtool.Evaluator):
    compares_with_teachers = True

    def kdtool_evaluate(self, run, subjects):
        *teachers, subject = subjects
        if subject.role == "teacher":
            (run.folder / "own.txt").write_text(subject.name)
            return
        known = [(teacher.files / "own.txt").read_text() for teacher in teachers]
        yield kdtool.Measurement("likeness", subject.name, "points", 1.0, 1, True, settings={"with": " ".join(known)})


class Bench(kdtool.Evaluator):
    class Config(kdtool.Config):
        judge: str = ""
        declared: bool = True
        reads: bool = False

    reads_text = False

    def __init__(self, config):
        super().__init__(config)
        self.asks = (config.judge,) if config.judge and config.declared else ()

    def kdtool_evaluate(self, run, subjects):
        if self.config.reads:
            list(run.texts.examples("test"))
        if self.config.judge:
            list(run.component(self.config.judge, kdtool.Teacher).kdtool_answer([kdtool.Request("a", "b", 1)]))
        for subject in subjects:
            yield kdtool.Measurement("bench", subject.name, "points", 1.0, 1, True)
"""


@pytest.fixture
def two(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The toy recipe with two teachers, of which the second teaches, and a student that is cut from the first."""
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    own = "./own.py:"
    losses = {"imitate": use("Imitate", teacher="small"), "count": use("Count")}
    del recipe["teacher"]
    return {
        **recipe,
        "seeds": [0],
        "teachers": {"big": {"use": f"{own}Wordy"}, "small": {"use": f"{own}Wordy", "words": 2}},
        "student": {"use": f"{own}Cut"},
        "train": {"losses": losses, "steps": 2},
        "control": {"match": ["tokens"], "losses": {"count": use("Count")}},
        "evaluators": {"nats": use("Nats"), "bench": {"use": f"{own}Bench"}, "all": {"use": f"{own}All"}},
    }


ARMS = ("phases/student-seed0-train", "phases/control-seed0-train", "exports/json")
SCORED = ("student-seed0", "student-seed0-json", "control-seed0")
OF_ARMS = {*ARMS, *(f"scores/{name}-{one}" for name in ("nats", "bench") for one in SCORED), "scores/all"}
OF_STUDENT = {name for name in OF_ARMS if "control" not in name}


def of_teacher(name: str) -> set[str]:
    return {f"scores/nats-{name}", f"scores/bench-{name}", "scores/all"}


CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "the one that teaches": (
        {"teachers.small.words": 3},
        {"signals/teachers.small", *of_teacher("teachers.small"), *OF_STUDENT},
    ),
    "the one that the student is cut from": (
        {"teachers.big.words": 3},
        {"students", "signals/teachers.small", *of_teacher("teachers.big"), *OF_ARMS},  # a loss on layers needs them
    ),
    "what does not affect results": ({"teachers.big.shown": 3, "teachers.small.shown": 3}, set()),
    "where the student is cut from": (
        {"student.source": "teachers.small"},
        {"students", "signals/teachers.small", *OF_ARMS},
    ),
}


def to_run(recipe: dict[str, Any], settings: dict[str, Any]) -> set[str]:
    return {stage.name for stage in kdtool.plan(recipe, settings) if stage.action != "reuse"}


def test_a_setting_of_a_teacher_makes_anew_what_uses_it_and_nothing_else(two: Recipe) -> None:
    kdtool.run(two)
    for name, (settings, expected) in CHANGES.items():
        assert to_run(two, settings) == expected, name
        assert {stage.name for stage in kdtool.run(two, settings).stages if not stage.reused} == expected, name


def test_a_student_with_a_teachers_tokenizer_does_not_depend_on_its_other_settings(two: Recipe) -> None:
    two["student"] = {"use": "./own.py:Spelled"}
    kdtool.run(two)
    assert to_run(two, {"teachers.big.words": 3}) == of_teacher("teachers.big")


def test_other_text_does_not_measure_again_what_reads_none(two: Recipe) -> None:
    two["control"], two["evaluators"]["late"] = False, {"use": "./own.py:Bench", "judge": "teachers.small"}
    kdtool.run(two)
    found = to_run(two, {"corpus.documents": 9})
    assert {name for name in found if "teachers" in name} == {"signals/teachers.small", *(
        f"scores/nats-teachers.{name}" for name in ("big", "small")
    )}  # fmt: skip
    judged = to_run(two, {"teachers.small.words": 3})
    assert {f"scores/late-{name}" for name in ("teachers.big", "teachers.small", "student-seed0")} <= judged
    assert "scores/bench-teachers.big" not in judged


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"student.declared": False},
            "untrained student: asks teachers.big, which none of its components declares.*`derives_from`",
        ),
        (
            {"evaluators.bench.judge": "teachers.small", "evaluators.bench.declared": False},
            "measuring bench of teachers.big: asks teachers.small, which none .*`asks` \\(an evaluator\\)",
        ),
    ],
)
def test_what_asks_a_teacher_without_saying_so_is_refused(two: Recipe, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(kdtool.PluginError, match=message):
        kdtool.run(two, setting)


def test_a_judge_that_is_not_there_and_text_that_an_evaluator_does_not_read_are_refused(two: Recipe) -> None:
    with pytest.raises(kdtool.RecipeError, match=r"asks the teacher 'teachers\.tall', which is not in this recipe"):
        kdtool.plan(two, {"evaluators.bench.judge": "teachers.tall"})
    with pytest.raises(LookupError, match="the text of split 'test' does not exist yet"):
        kdtool.run(two, {"evaluators.bench.reads": True})


def test_scores_depend_on_the_tokenizers_of_teachers_that_are_not_asked(two: Recipe) -> None:
    two["student"], two["control"] = use("Student"), False
    two["teachers"]["big"] = {"use": "./own.py:Spelling"}
    two["evaluators"] = {"spells": {"use": "./own.py:Spells"}}
    for name in ("bytes", "other tokenizer"):
        results = kdtool.run(two, {"teachers.big.tokenizer": name})
        assert {one.value for one in results.measurements} == {len(name)}


def test_a_subject_is_compared_with_what_was_written_of_the_teachers(two: Recipe) -> None:
    two |= {"evaluators": {"likeness": {"use": "./own.py:Likeness"}}, "seeds": [0, 1]}
    results = kdtool.run(two)
    found = {each.subject: each.settings["with"] for each in results.measurements}
    names = [f"{arm}-seed{seed}" for arm in ("student", "control") for seed in (0, 1)]
    assert found == dict.fromkeys(names, "teachers.big teachers.small"), "and not the exported file"
    assert not [note for note in results.notes if "measured nothing" in note]
    of_teachers = {"scores/likeness-teachers.big", "scores/likeness-teachers.small"}
    of_arms = {f"scores/likeness-{name}" for name in names}
    scores = {stage.name for stage in results.stages if stage.name.startswith("scores")}
    assert scores == of_teachers | of_arms
    again = to_run(
        two, {"seeds": [0, 1, 2]}
    )  # students of this recipe depend on the others, through the recorded signals
    assert again & scores == {"scores/likeness-student-seed0", "scores/likeness-student-seed1"}
    changed = to_run(two, {"teachers.big.words": 3})
    assert changed & scores == {"scores/likeness-teachers.big", *of_arms}
