"""What weightings ask of their phase: what they see of a teacher, and losses that they name.

`_fitting` asks for the problems of a recipe. The control has the same weightings with no teacher, and may have other losses:
what they ask is compared with the recipe's own phases alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._assembly.checks.teacher_signals import need_met, source_of, teachers_of
from kdtool._contract.loss import TokenLoss, Weighting
from kdtool._contract.signals import SignalKind, alternatives
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, PhaseSpec, Recipe, problem_at
from kdtool._recipe.yaml import KeyPath
from kdtool._text.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["weighing_problems"]


def weighing_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield the weightings that see something else of the teacher than they need, or name a loss that is not there."""
    for phase in recipe.phases:
        seen = _seen(phase, built)
        for spec in phase.weightings:
            weighting = built[spec.key].instance()
            if not isinstance(weighting, Weighting):
                continue
            if seen and weighting.needs and not any(need <= seen[1] for need in alternatives(weighting.needs)):
                yield _unserved(recipe, spec, weighting, *seen)
            names = [loss.name for loss in phase.losses]
            for name in sorted(weighting.terms.difference(names)):
                hint = did_you_mean(name, names, what="losses of this phase", shown=20)
                yield problem_at(recipe, spec.key, f"names the loss {name!r}, which phase {phase.name!r} has not", hint)


def _seen(phase: PhaseSpec, built: Mapping[KeyPath, Built]) -> tuple[ComponentSpec, frozenset[SignalKind]] | None:
    """Return the first token loss that has a teacher, and what it gets of that; None where no loss has one."""
    for spec in phase.losses:
        loss = built[spec.key].instance()
        if isinstance(loss, TokenLoss):
            teachers = teachers_of(spec, loss, phase)
            if teachers:
                met = need_met(loss, built[source_of(phase, teachers[0][0]).key].instance())
                return None if met is None else (spec, met)  # one that is not met is told as the loss's problem
    return None


def _unserved(
    recipe: Recipe, spec: ComponentSpec, weighting: Weighting, loss: ComponentSpec, seen: frozenset[SignalKind]
) -> Problem:
    needs = " or ".join("+".join(sorted(need)) for need in alternatives(weighting.needs))
    message = f"needs {needs} of the teacher, but sees what {loss.name} learns from: {'+'.join(sorted(seen))}"
    remedy = f"take signals that keep {needs}, leave `signals` out where they are set, or use another weighting"
    return problem_at(recipe, spec.key, message, remedy)
