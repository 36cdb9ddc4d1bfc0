"""Optimizers: one for the recipe or for a phase, made by a component and used by the trainer of the phase."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.assemble import assemble
from kdtool._recipe.parser import load_recipe
from toy_recipe import TOY

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


def test_a_trainer_that_ignores_it_is_refused(own: dict[str, Any]) -> None:
    own["trainer"] = {"use": f"{TOY}:Trainer"}
    ((key, message, remedy),) = problems(own)
    assert key == "optimizer"
    assert message.startswith("is not used by the trainer")
    assert remedy.startswith("leave `optimizer` out")


def test_settings_of_the_optimizer_that_it_replaces_are_refused(own: dict[str, Any]) -> None:
    own["trainer"]["decay"] = 0.2
    ((key, message, remedy),) = problems(own)
    assert (key, message) == ("trainer.decay", "belongs to the trainer's own optimizer, which `optimizer` replaces")
    assert remedy == "set `optimizer.decay` if './own.py:Descent' has this setting; else leave one of them out"
    del own["optimizer"]
    with assemble(load_recipe(own)):
        pass
