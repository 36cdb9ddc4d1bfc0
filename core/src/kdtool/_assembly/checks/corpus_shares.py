"""Shares of corpora that are mixed: either every corpus has the key `share`, or none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from kdtool._assembly.built import BuiltRecipe
from kdtool._assembly.checks.dependencies import taken_by
from kdtool._errors import Problem
from kdtool._recipe.model import ComponentSpec, of_kind


def check_shares(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield mistakes in the shares of the recipe's corpora, and of each phase's own."""
    components = {spec.path: parts.component(spec) for spec in of_kind(parts.recipe.lasting, "corpus")}
    sources = (parts.recipe.shared, *(phase.sources for phase in parts.recipe.phases))
    groups = [of_kind(specs, "corpus") for specs in sources]
    for corpora in {tuple(spec.key for spec in group): group for group in groups}.values():
        taken = taken_by([spec.path for spec in corpora], components)  # those give no text themselves
        yield from _check_sum(parts, [spec for spec in corpora if spec.path not in taken])


def _check_sum(parts: BuiltRecipe, corpora: Sequence[ComponentSpec]) -> Iterator[Problem]:
    shares = {spec.name: spec.share for spec in corpora if spec.share is not None}
    for spec in corpora if shares else ():
        if spec.share is None:
            remedy = "give every corpus its share of the text, or none: then they are put together whole"
            yield parts.problem(spec.key, f"needs a share, since {', '.join(shares)} has one", remedy)
    total = math.fsum(shares.values())
    if len(shares) == len(corpora) > 0 and not math.isclose(total, 1, abs_tol=1e-6):
        scaled = ", ".join(f"{name}: {{share: {share / total:.3g}}}" for name, share in shares.items())
        message = f"the shares sum to {total:g}, not to 1"
        yield parts.problem(corpora[0].key[:-1], message, f"in the same proportion: {scaled}")
