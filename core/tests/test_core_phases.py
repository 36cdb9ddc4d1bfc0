"""Phases: their optimizers and transforms, and teachers that are the student before a phase."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
import toy
from kdtool._assembly.assemble import assemble
from kdtool._recipe.parser import load_recipe
from kdtool._run.stages.phase_training import Transforming
from kdtool_testing import make_run
from toy_recipe import use

OWN = '''
import kdtool
import toy


class Descent(kdtool.Optimizer):
    """Says what it was asked for."""

    class Config(kdtool.Config):
        momentum: float = 0.0
        """As of a ball."""

    def kdtool_optimizer(self, run, parameters, learning_rate):
        return f"{[*parameters]} at {learning_rate} with {self.config.momentum}"


class Trainer(toy.Trainer):
    """Takes the optimizer of its phase."""

    optimizer_settings = ("decay",)

    class Config(toy.Trainer.Config):
        decay: float = 0.1
        """Of its own optimizer."""

    def kdtool_train(self, run, phase, student):
        name = "none"
        for name in run.implementing("kdtool_optimizer"):
            name = run.component(name, kdtool.Optimizer).kdtool_optimizer(run, {"w": 1}, 0.5)
        with open("optimizers.txt", "a") as file:
            file.write(f"{run.arm} {phase.name}: {name}\\n")
        return super().kdtool_train(run, phase, student)
'''


@pytest.fixture
def own(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The toy recipe with a trainer that takes optimizers, two phases, one seed and one control."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN, encoding="utf-8")
    train = {name: dict(recipe["train"]) for name in ("first", "second")}
    changes = {"seeds": [0], "control": "tokens", "trainer": {"use": "./own.py:Trainer"}, "train": train}
    return {**recipe, **changes, "optimizer": {"use": "./own.py:Descent", "momentum": 0.9}}


def optimizers(recipe: Mapping[str, Any]) -> list[str]:
    kdtool.run(recipe, out="runs")
    return Path("optimizers.txt").read_text(encoding="utf-8").splitlines()


def problems(recipe: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    with pytest.raises(kdtool.RecipeError) as refused, assemble(load_recipe(recipe)):
        pass
    return [(problem.key, problem.message, problem.remedy) for problem in refused.value.problems]


def test_a_phase_has_its_own_settings_over_the_recipes_and_the_control_has_the_same(own: dict[str, Any]) -> None:
    own["train"]["second"]["optimizer"] = {"momentum": 0.5}
    assert optimizers(own) == [
        f"{arm} {phase}: ['w'] at 0.5 with {momentum}"
        for arm in ("student", "control")
        for phase, momentum in (("first", 0.9), ("second", 0.5))
    ]


def test_a_phase_without_the_recipes_optimizer_trains_with_the_trainers(own: dict[str, Any]) -> None:
    own["train"]["second"]["optimizer"] = False
    assert [line.split(": ")[1] for line in optimizers({**own, "control": False})] == ["['w'] at 0.5 with 0.9", "none"]


def test_its_settings_are_part_of_what_a_phase_depends_on(own: dict[str, Any]) -> None:
    phase = {"steps": 4, "losses": own["train"]["first"]["losses"]}
    short = {**own, "control": False, "train": phase}
    assert [len(optimizers(short)) for _ in range(2)] == [1, 1]
    assert len(optimizers({**short, "optimizer": {"use": "./own.py:Descent"}})) == 2


def test_a_trainer_that_ignores_it_or_sets_its_own_is_refused(own: dict[str, Any]) -> None:
    ((key, message, remedy),) = problems({**own, "trainer": use("Trainer")})
    assert key == "optimizer"
    assert message.startswith("is not used by the trainer")
    assert remedy.startswith("leave `optimizer` out")
    own["trainer"]["decay"] = 0.2
    ((key, message, remedy),) = problems(own)
    assert (key, message) == ("trainer.decay", "belongs to the trainer's own optimizer, which `optimizer` replaces")
    assert remedy == "set `optimizer.decay` if './own.py:Descent' has this setting; else leave one of them out"
    del own["optimizer"]
    with assemble(load_recipe(own)):
        pass


def transform(function: Callable[[Any], Any]) -> kdtool.Transform:
    class Made(kdtool.Transform):
        """Does what the function does."""

        def kdtool_transform(self, student: Any, run: Any) -> Any:
            return function(student)

    return Made(Made.Config())


def test_transforms_finish_in_reverse_and_give_back_what_they_replaced(tmp_path: Path) -> None:
    first, inner, lasting = (toy.Unigram({}) for _ in range(3))
    finished = []

    def replace(student: Any) -> Iterator[Any]:
        assert student is first
        yield inner
        finished.append("replace")

    def keep(student: Any) -> Iterator[Any]:
        yield
        finished.append("keep")

    transforming, run = Transforming(first), make_run(tmp_path)
    for function in (replace, keep):
        transforming.apply(transform(function), run)
    assert transforming.student is inner
    assert transforming.finish() is first
    assert finished == ["keep", "replace"]
    functions: list[Callable[[Any], Any]] = [keep, lambda student: lasting, lambda student: None]
    for change in functions:
        transforming.apply(transform(change), run)
    assert transforming.finish() is lasting

    def twice(student: Any) -> Iterator[Any]:
        yield student
        yield student

    transforming.apply(transform(twice), run)
    with pytest.raises(kdtool.PluginError, match="yields more than once"):
        transforming.finish()


@pytest.fixture
def following(recipe: dict[str, Any]) -> dict[str, Any]:
    """The toy recipe with phases that count text, and one step that adds what the student had counted before a phase."""
    losses = {"count": use("Count")}
    own = {
        "teacher": use("Former"),
        "signals": False,
        "losses": {"imitate": use("Imitate")},
        "trainer": {"factor": 1e-9},
    }
    train = {name: {"losses": losses, "steps": steps} for name, steps in (("first", 2), ("second", 3))}
    train["third"] = {**own, "steps": 1}
    kept = {key: value for key, value in recipe.items() if key not in {"teacher", "signals"}}
    return {**kept, "train": train, "control": False}


def counts(results: kdtool.Results, seed: int, phase: str) -> dict[str, float]:
    """Return what the student had counted after a phase."""
    (path,) = (stage.path for stage in results.stages if stage.name == f"phases/student-seed{seed}-{phase}")
    found: dict[str, float] = json.loads((path / "model" / "counts.json").read_text(encoding="utf-8"))
    return found


def added(results: kdtool.Results, seed: int) -> dict[str, float]:
    """Return what the last phase added to the student's counts."""
    before, after = counts(results, seed, "second"), counts(results, seed, "third")
    gained = {byte: round(count - before.get(byte, 0), 3) for byte, count in after.items()}
    return {byte: count for byte, count in gained.items() if count}


@pytest.mark.parametrize("before", ["", "third", "second", "first"])
def test_it_is_the_student_of_that_phase_and_seed(following: dict[str, Any], before: str) -> None:
    results = kdtool.run(following, {"train.third.teacher.before": before} if before else {})
    for seed in (0, 1):
        earlier = {"": "second", "third": "second", "second": "first", "first": None}[before]
        assert added(results, seed) == (counts(results, seed, earlier) if earlier else {})
    assert counts(results, 0, "first") != counts(results, 1, "first")


def test_it_is_not_measured_and_the_control_has_none(following: dict[str, Any]) -> None:
    results = kdtool.run({**following, "control": {"match": "tokens", "losses": {"count": use("Count")}}})
    assert {subject.role for subject in results.subjects} == {"student", "control", "artifact"}


def test_a_change_of_an_earlier_phase_is_seen_and_another_run_reuses_everything(following: dict[str, Any]) -> None:
    kdtool.run(following, {"train.third.teacher.before": "second"})
    assert all(stage.reused for stage in kdtool.run(following, {"train.third.teacher.before": "second"}).stages)
    settings = {"train.third.teacher.before": "first"}
    made = {stage.name for stage in kdtool.run(following, settings).stages if not stage.reused}
    assert "phases/student-seed0-third" in made
    assert "phases/student-seed0-second" not in made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.third.signals": use("Cache")}, r"is recorded before training, but the teacher 'teacher' is the student"),
        ({"train.third.teacher.before": "fourth"}, r"before the phase 'fourth', .*up to then: first, second, third"),
        ({"train.second.teacher": use("Former", before="third"), "train.second.losses": {"imitate": use("Imitate")}},
         r"before the phase 'third', but the phase 'second' .*up to then: first, second"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_runs(
    following: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(kdtool.RecipeError, match=message.replace(" .*", r"(.|\n)*")):
        kdtool.check(following, settings)
