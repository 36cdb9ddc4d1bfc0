"""Evaluators that trainers ask during training (`Trainer.validators`), and teachers that evaluators ask (`asks`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdtool._assembly.built import Built, BuiltRecipe
from kdtool._contract.trainer import Trainer
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, of_kind
from kdtool._recipe.yaml import KeyPath
from kdtool._text.did_you_mean import did_you_mean


def validators_of(recipe: Recipe, phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> list[ComponentSpec]:
    """Return the recipe's evaluators that the phase's trainer asks."""
    trainer = built[phase.trainer.key].component if phase.trainer else None
    names = trainer.validators if isinstance(trainer, Trainer) else ()
    return [spec for spec in of_kind(recipe.shared, "evaluator") if spec.name in names]


def check_validation(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the evaluators that a trainer asks, and the teachers that an evaluator asks, that the recipe lacks."""
    evaluators, teachers = (of_kind(parts.recipe.shared, kind) for kind in ("evaluator", "teacher"))
    trainers = {phase.trainer.key: phase.trainer for phase in parts.phases if phase.trainer}
    asked = [
        (spec, parts.component(spec).validators, "evaluator", [e.name for e in evaluators])
        for spec in trainers.values()
    ]
    asked += [(spec, parts.component(spec).asks, "teacher", [t.path for t in teachers]) for spec in evaluators]
    for spec, names, kind, known in asked:
        for name in dict.fromkeys(names):
            if name not in known:
                hint = did_you_mean(name, known, what=f"{kind}s of this recipe") or f"add it to `{kind}s`"
                yield parts.problem(spec.key, f"asks the {kind} {name!r}, which is not in this recipe", hint)
