"""What the components of a recipe ask of each other, all of it: whether they fit. Called by the assembly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdtool._columns import column_problems
from kdtool._errors import Problem
from kdtool._needs import needs_problems
from kdtool._recipe.model import Recipe
from kdtool._recipe.yaml_text import KeyPath
from kdtool._requirements import requirement_problems
from kdtool._shares import share_problems
from kdtool._takes import takes_problems
from kdtool._validating import validating_problems
from kdtool._weighing import weighing_problems
from kdtool._weights import weight_problems

if TYPE_CHECKING:
    from kdtool._assembly import Built

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
