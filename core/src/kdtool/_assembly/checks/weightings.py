"""Signals and losses that weightings need in their phase.

The control has the same weightings with no teacher, and may have other losses: only the recipe's own phases are checked.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdtool._assembly.built import BuiltRecipe
from kdtool._assembly.checks.teacher_signals import in_words, signals_for, teachers_of
from kdtool._contract.loss import TokenLoss, Weighting
from kdtool._contract.signals import SignalKind, alternatives
from kdtool._errors import Problem
from kdtool._recipe.model import PhaseSpec
from kdtool._text.did_you_mean import did_you_mean


def check_weightings(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the weightings that see other signals than they need, or name a missing loss."""
    for phase in parts.recipe.phases:
        loss, signals = _first_signals(parts, phase)
        names = [spec.name for spec in phase.losses]
        for spec in phase.weightings:
            weighting: Weighting = parts.component(spec)
            if signals and weighting.needs and not any(need <= signals for need in alternatives(weighting.needs)):
                needs = in_words(weighting.needs)
                message = f"needs {needs} of the teacher, but sees what {loss} learns from: {in_words((signals,))}"
                remedy = (
                    f"use signals that keep {needs}, leave `signals` out where they are set, or use another weighting"
                )
                yield parts.problem(spec.key, message, remedy)
            for name in sorted(weighting.terms.difference(names)):
                hint = did_you_mean(name, names, what="losses of this phase", shown=20)
                yield parts.problem(spec.key, f"names the loss {name!r}, which is not in phase {phase.name!r}", hint)


def _first_signals(parts: BuiltRecipe, phase: PhaseSpec) -> tuple[str, frozenset[SignalKind] | None]:
    """Return the name of the first token loss that has a teacher, and its signals; None without such a loss."""
    for spec in phase.losses:
        loss = parts.component(spec)
        teachers = teachers_of(spec, loss, phase)
        if teachers and isinstance(loss, TokenLoss):
            return spec.name, signals_for(parts, phase, loss, teachers[0][0])
    return "", None
