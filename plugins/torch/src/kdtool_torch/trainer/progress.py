"""Progress of a phase: its state besides tensors, the log of steps, and reports on them.

Each checkpoint holds the state as JSON and a copy of the log, one JSON object per line, which a resumed phase
continues. Reports have value, weight and gradient norm of each term; weightings that balance terms get those of the
step before.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import kdtool
import torch

from kdtool_torch.batch import WeightMeans
from kdtool_torch.device import sum_over_ranks
from kdtool_torch.objective import DistillationModule
from kdtool_torch.stats import OVERLAP_FIGURES, StepFigures

_PROGRESS_FILE = "progress.json"


@dataclass
class Progress:
    """State that a resumed phase needs besides tensors and generators."""

    seconds: float = 0.0
    tokens: int = 0
    stats: Mapping[str, kdtool.TermReport] | None = None
    """The last step's figures, for balancing plugins."""
    squared_norms: Mapping[str, float] | None = None
    """Sums of squared gradient norms since the phase began: which terms did nothing."""
    token_weights: Mapping[str, Sequence[float]] | None = None
    """The state of `WeightMeans`; None if no tokens are weighed, and before the first step."""
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The state of weightings that balance, by their names."""
    on_policy: Mapping[str, int] | None = None
    """The counts of `OnPolicySampler` on rank 0; None if the phase is not on-policy."""
    best: Mapping[str, Any] | None = None
    """The fields of `Best`, on rank 0, if a validation is watched."""
    overlap: Sequence[Sequence[float]] | None = None
    """Figures of `EarlyVerdict` before the first step; None if there is none."""
    hopeless: str = ""
    """That verdict, if the overlap did not grow."""
    skipped: int = 0
    """Steps that changed nothing, since float16's loss scaling found an overflow."""
    world: int = 1
    """Processes that train: a step is as many rows as they show together."""
    dtype: str = "float32"
    """Data type of matrix products, since the choice of `dtype: auto` depends on the machine."""
    scaler: Mapping[str, float] | None = None
    """State of float16's loss scaling; empty in other precisions."""
    optimizer: Mapping[str, Any] | None = None
    """The result of `optimizer_numbers`."""


def write_progress(folder: Path, progress: Progress) -> None:
    """Add the file to a checkpoint that is being written."""
    (folder / _PROGRESS_FILE).write_text(json.dumps(asdict(progress), indent=1) + "\n", encoding="utf-8")


def read_progress(folder: Path) -> Progress:
    """Read the progress from a checkpoint.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is damaged.
    """
    content = json.loads((folder / _PROGRESS_FILE).read_text(encoding="utf-8"))
    stats = content["stats"]
    content["stats"] = stats and {name: kdtool.TermReport(**figures) for name, figures in stats.items()}
    return Progress(**{each.name: content[each.name] for each in fields(Progress) if each.name in content})


HISTORY = "history.jsonl"


def append_to_history(path: Path, report: kdtool.StepReport) -> None:
    """Add a report to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(report)) + "\n")


def restore_history(path: Path, checkpoint: Path | None) -> None:
    """Restore the steps logged before the checkpoint; None removes all steps."""
    if checkpoint is None:
        path.unlink(missing_ok=True)
    else:
        shutil.copyfile(checkpoint / HISTORY, path)


def begin_step(
    module: DistillationModule, run: kdtool.RunInfo, progress: Progress, step: int, steps: int, *, measure_norms: bool
) -> list[float]:
    """Prepare the module for a step, from 1, of a phase; return its terms' weights, balance included."""
    terms, share = module.terms, (step - 1) / max(1, steps - 1)
    names = [bound.term.name for bound in terms]
    balance = balance_factors(run, run.implementing("kdtool_balance"), names, progress, step)
    weights = [bound.term.weight_at(share) * balance.get(bound.term.name, 1.0) for bound in terms]
    factors = [weight * bound.term.scale for weight, bound in zip(weights, terms, strict=True)]
    module.begin_step(step, share, factors, measure_norms)
    if progress.token_weights is not None:
        means = WeightMeans(progress.token_weights)
        of_terms = torch.tensor([means.of(bound.term.name) for bound in terms if bound.per_token])
        module.mean_weights.copy_(of_terms, non_blocking=True)
    return weights


def add_token_weights(module: DistillationModule, read: StepFigures, progress: Progress, run: kdtool.RunInfo) -> None:
    """Add the step's token weights, of all ranks, to the running means."""
    names = [bound.term.name for bound in module.terms]
    means = WeightMeans(progress.token_weights or {})
    weights = sum_over_ranks(read.weights, run.world)
    means.add(dict(zip(names, weights, strict=True)), dict(zip(names, read.seen, strict=True)))
    progress.token_weights = means.state


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
    return {name: value / count for name, value in zip(OVERLAP_FIGURES, sums, strict=True)} if count else {}


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
