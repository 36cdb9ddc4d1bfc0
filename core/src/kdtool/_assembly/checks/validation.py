"""Evaluators that a phase's trainer asks while it trains (`Trainer.validators`), and teachers that evaluators ask (`asks`).

`_fitting` asks for the problems of a recipe; the run asks which components a phase's result depends on besides its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._contract.evaluation import Evaluator
from kdtool._contract.trainer import Trainer
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind, problem_at
from kdtool._recipe.yaml import KeyPath
from kdtool._text.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["validating_problems", "validators_of"]


def validators_of(recipe: Recipe, phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> list[ComponentSpec]:
    """Return the recipe's evaluators that the phase's trainer asks."""
    wanted = _names(phase, built)
    return [spec for spec in of_kind(recipe.shared, "evaluator") if spec.name in wanted]


def validating_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield the evaluators that a trainer asks, and the teachers that an evaluator asks, that the recipe does not have."""
    there = [spec.name for spec in of_kind(recipe.shared, "evaluator")]
    said = set()
    yield from _asked(recipe, built)
    for phase in (*recipe.phases, *(recipe.control.phases if recipe.control else ())):
        for name in _names(phase, built):
            key = phase.trainer.key if phase.trainer else phase.key
            if name not in there and (key, name) not in said:
                said.add((key, name))
                hint = did_you_mean(name, there, what="evaluators of this recipe") or "add it to `evaluators`"
                yield problem_at(recipe, key, f"asks the evaluator {name!r} while it trains, which is not there", hint)


def _asked(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    teachers = [spec.path for spec in of_kind(recipe.shared, "teacher")]
    for spec in of_kind(recipe.shared, "evaluator"):
        evaluator = built[spec.key].instance()
        for name in evaluator.asks if isinstance(evaluator, Evaluator) else ():
            if name not in teachers:
                hint = did_you_mean(name, teachers, what="teachers of this recipe") or "add it to `teachers`"
                yield problem_at(recipe, spec.key, f"asks {name!r}, which is not a teacher of this recipe", hint)


def _names(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> tuple[str, ...]:
    trainer = built[phase.trainer.key].instance() if phase.trainer else None
    return tuple(trainer.validators) if isinstance(trainer, Trainer) else ()
