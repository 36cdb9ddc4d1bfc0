"""What the components of a recipe ask of each other, all of it: whether they fit. Called by the assembly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._assembly.checks.corpus_shares import share_problems
from kdtool._assembly.checks.dependencies import takes_problems
from kdtool._assembly.checks.loss_weights import weight_problems
from kdtool._assembly.checks.requirements import requirement_problems
from kdtool._assembly.checks.teacher_signals import needs_problems
from kdtool._assembly.checks.token_columns import column_problems
from kdtool._assembly.checks.validation import validating_problems
from kdtool._assembly.checks.weightings import weighing_problems
from kdtool._errors import Problem
from kdtool._recipe.model import Recipe
from kdtool._recipe.yaml import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["fitting_problems"]

_CHECKS = (
    needs_problems,
    takes_problems,
    share_problems,
    column_problems,
    weighing_problems,
    weight_problems,
    requirement_problems,
    validating_problems,
)


def fitting_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield whatever does not fit; each check expects components that are built, and says its own."""
    for check in _CHECKS:
        yield from check(recipe, built)
