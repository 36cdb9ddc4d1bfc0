"""The shares of corpora that are mixed: the key `share`, beside each corpus or beside none. Called by `_fitting`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdtool._assembly.checks.dependencies import taken_by
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, Recipe, of_kind, problem_at
from kdtool._recipe.yaml import KeyPath

if TYPE_CHECKING:
    from kdtool._assembly.built import Built

__all__ = ["share_problems"]

_TOLERANCE = 1e-6


def share_problems(recipe: Recipe, built: Mapping[KeyPath, Built]) -> Iterator[Problem]:
    """Yield what is wrong with the shares of the recipe's corpora, and of each phase's own."""
    components = {spec.path: built[spec.key].instance() for spec in of_kind(recipe.lasting, "corpus")}
    own = [of_kind(sources, "corpus") for sources in (recipe.shared, *(phase.sources for phase in recipe.phases))]
    for corpora in {tuple(spec.key for spec in corpora): corpora for corpora in own}.values():
        taken = taken_by([spec.path for spec in corpora], components)  # those give no text themselves
        yield from _problems(recipe, [spec for spec in corpora if spec.path not in taken])


def _problems(recipe: Recipe, corpora: Sequence[ComponentSpec]) -> Iterator[Problem]:
    given = [spec for spec in corpora if spec.share is not None]
    wrong = [spec for spec in given if not _is_share(spec.share)]
    for spec in wrong:
        message = f"{spec.share!r} is no share: a number above 0, at most 1"
        yield problem_at(recipe, (*spec.key, "share"), message)
    if wrong or not given:
        return
    without = [spec for spec in corpora if spec.share is None]
    for spec in without:
        remedy = "give every corpus its share of the text, or none: then they are put together whole"
        yield problem_at(recipe, spec.key, f"has no share, and {given[0].path} has one", remedy)
    total = math.fsum(spec.share or 0.0 for spec in given)
    if not without and abs(total - 1) > _TOLERANCE:
        remedy = ", ".join(f"{spec.name}: {{share: {(spec.share or 0.0) / total:.3g}}}" for spec in given)
        message = f"the shares sum to {total:g}, not to 1"
        yield problem_at(recipe, given[0].key[:-1], message, f"in the same proportion: {remedy}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
