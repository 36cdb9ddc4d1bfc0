"""Figures of a step: value, weight and gradient norm of each term, and factors of weightings that balance them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import kdtool
from kdtool_torch import sum_over_ranks

from kdtool_trainer_standard._module import DistillationModule
from kdtool_trainer_standard._overlap import FIGURES
from kdtool_trainer_standard._progress import Progress
from kdtool_trainer_standard._step_stats import StepFigures

__all__ = ["balance_factors", "report_overlap", "report_terms"]


def report_terms(
    module: DistillationModule,
    read: StepFigures,
    weights: Sequence[float],
    progress: Progress,
    run: kdtool.RunInfo,
    keep_norms: bool,
) -> dict[str, kdtool.TermReport]:
    """Return the step's terms by label, gathered over ranks.

    `progress` keeps what balancing and the final notes need.

    Args:
        module: whose step is over.
        read: the step's figures on this rank.
        weights: of the terms in this step, balance included.
        progress: of the phase, changed in place.
        run: the phase's.
        keep_norms: balancing sees gradient norms. They must be measured at every step then.
    """
    measured, count = module.measures_norms, len(module.terms)
    gathered = sum_over_ranks([*read.values, *read.squared_norms], run.world)
    figures = zip(module.terms, weights, gathered[:count], gathered[count:], read.seen, strict=True)
    reports, kept = dict[str, kdtool.TermReport](), dict[str, kdtool.TermReport]()
    norms = dict(progress.squared_norms or {})
    for bound, weight, value, square, seen in figures:
        if not seen:  # a mean over nothing is no figure
            continue
        term, norm = bound.term, math.sqrt(square) if measured else None
        reports[term.label] = kdtool.TermReport(value * term.scale, weight, norm)
        # Norms that no weighting asks for exist only at some steps: nothing may depend on them.
        kept[term.name] = kdtool.TermReport(value * term.scale, weight, norm if keep_norms else None)
        if measured:
            norms[term.name] = norms.get(term.name, 0.0) + square
    progress.squared_norms, progress.stats = norms, kept
    return reports


def report_overlap(read: StepFigures, run: kdtool.RunInfo) -> dict[str, float]:
    """Return the step's figures of the overlap by name, means over all ranks; nothing if it has no positions."""
    *sums, count = sum_over_ranks(read.overlap, run.world)
    return {name: value / count for name, value in zip(FIGURES, sums, strict=True)} if count else {}


def balance_factors(
    run: kdtool.RunInfo, weightings: Sequence[str], terms: Sequence[str], progress: Progress, step: int
) -> Mapping[str, float]:
    """Return the product of these weightings' factors by name of the term, from the figures of the step before; or nothing.

    Raises:
        PluginError: a weighting returned something else than finite factors of at least 0 for these terms.
    """
    if not weightings or progress.stats is None:
        return {}
    product = dict.fromkeys(terms, 1.0)
    for name in weightings:
        state = progress.states.setdefault(name, {})
        factors = run.component(name, kdtool.Weighting).kdtool_balance(progress.stats, step, state) or {}
        bad = {term: factor for term, factor in factors.items() if term not in product or not 0 <= factor < math.inf}
        if bad:
            raise kdtool.PluginError(
                f"{run.hook.owner(name) or name} balanced {bad}; expected factors that are finite and not negative, for "
                f"{', '.join(sorted(product))}"
            )
        product |= {term: product[term] * factor for term, factor in factors.items()}
    return product
