"""Progress of a phase: its state besides tensors, the log of steps, what a step begins with, and reports on it.

Each checkpoint holds the state as JSON and a copy of the log, one JSON object per line, which a resumed phase
continues. Reports have value, weight and gradient norm of each term; weightings that balance terms get those of the
step before.

The early verdict compares the overlap of the student's and the teacher's likeliest tokens at all positions of the same
rows before the first step and after the first 5 % of the steps: in runs that succeed it grows from the start, in those
that fail it does not (Li et al., arXiv 2604.13016).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import kdtool
import torch
from torch import Tensor

from kdtool_torch.device import sum_over_ranks
from kdtool_torch.inputs import RowsInOrder
from kdtool_torch.objective import DistillationModule
from kdtool_torch.stats import LIKELIEST, OVERLAP_FIGURES, StepFigures
from kdtool_torch.terms import BoundTerm
from kdtool_torch.trainer.settings import StandardTrainerConfig
from kdtool_torch.weightings.tokens import WeightMeans

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


def learning_rate_factor(config: StandardTrainerConfig, step: int, steps: int) -> float:
    """Return the learning rate's fraction of its peak at a step, counted from 0."""
    warmup = max(1, round(config.warmup * steps)) if config.warmup else 0
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.1 + 0.9 * ((1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done)


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
    if progress.token_weights is None and not means.state and run.rank == 0:
        run.say("weightings: no token of the first step has a weight, so nothing is learned from it")
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


_EARLY, _FEWEST_STEPS = 20, 10
"""The verdict comes after steps / 20, if that is at least ten steps."""


_SHARE, _MOST, _BLOCKS = 200, 16_384, 32
"""The verdict reads the rows of steps / 200 steps, at most 16,384 positions, in blocks."""


_LEAST_GROWTH, _ENOUGH = 0.002, 0.9
"""A phase is hopeless if its overlap grew by less than the first, unless it began above the second."""


class EarlyVerdict:
    """The verdict on a phase of at least 200 steps, if the first token loss with a teacher receives its likeliest tokens.

    It measures the last rows of the first epoch, none of which is learned before the second time, unless there are few.

    Args:
        terms: the phase's token losses.
        compute: returns `overlaps_of_all` of some rows; the same random numbers are drawn each time.
    """

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        terms: Sequence[BoundTerm],
        compute: Callable[[list[kdtool.Row]], Tensor],
    ) -> None:
        self._config, self._run, self._phase, self._compute = config, run, phase, compute
        form = next((bound.form for bound in terms if bound.form != "none"), "none")
        self.has_overlap = form in ("dense", "top-k")
        early = phase.steps // _EARLY
        self._step = early if self.has_overlap and early >= _FEWEST_STEPS else 0

    def begin(self, progress: Progress) -> None:
        """Measure the overlap before the first step."""
        if self._step:
            progress.overlap = self._measure()
        elif not self.has_overlap and self._run.rank == 0 and any(term.teachers for term in self._phase.terms):
            self._run.say("overlap: not measured, since no loss receives a teacher's logits or its top-k tokens")

    def judge(self, progress: Progress, step: int) -> None:
        """Report after a step whether the overlap grew, if the verdict is due.

        Raises:
            UsageError: it did not, and `stop_hopeless` is set.
        """
        if step != self._step or not progress.overlap:
            return
        growth = Growth(progress.overlap, self._measure(), step)
        if growth.is_hopeless and self._config.stop_hopeless:
            raise kdtool.UsageError(f"{growth.describe()}. Training stopped, since the trainer has stop_hopeless: true")
        if growth.is_hopeless:
            progress.hopeless = growth.describe()
        if self._run.rank == 0:
            self._run.say(growth.describe())

    def _measure(self) -> list[list[float]]:
        """Return the means of the figures in each block of successive positions; nothing without positions."""
        order = RowsInOrder(self._phase.rows, len(self._phase.rows), self._run.seed)
        rows_per_step = self._config.rows_per_step or self._config.batch * self._config.accumulation * self._run.world
        figures, positions, end = list[Tensor](), 0, len(order)
        first = end - -(-self._phase.steps * rows_per_step // _SHARE)
        while end > max(0, first) and positions < _MOST:
            rows = [order[index] for index in range(max(0, end - self._config.batch), end)]
            figures.append(self._compute(rows))
            positions, end = positions + len(figures[-1]), end - len(rows)
        blocks = torch.cat(figures).tensor_split(max(1, min(positions, _BLOCKS)))
        means: list[list[float]] = torch.stack([block.mean(0) for block in blocks]).tolist()
        return means if positions else []


@dataclass(frozen=True)
class Growth:
    """Growth of the overlap on the same text: the figures of each block before the first step, and after `step`."""

    before: Sequence[Sequence[float]]
    after: Sequence[Sequence[float]]
    step: int

    @property
    def bounds(self) -> tuple[float, float]:
        """The growth minus and plus two standard errors, of the differences of the blocks."""
        grown = [after[0] - before[0] for before, after in zip(self.before, self.after, strict=True)]
        error = 2 * stdev(grown) / len(grown) ** 0.5 if len(grown) > 1 else 1.0
        return fmean(grown) - error, fmean(grown) + error

    @property
    def is_hopeless(self) -> bool:
        """True if the growth is below 0.2 percentage points with its noise, and the overlap was below 90 %."""
        return self.bounds[1] < _LEAST_GROWTH and _mean(self.before)[0] < _ENOUGH

    def describe(self) -> str:
        """Return the verdict in words."""
        (low, high), (ratio, of_student, of_teacher) = self.bounds, _mean(self.after)
        overlap = (
            f"of the student's {LIKELIEST} likeliest tokens {_mean(self.before)[0]:.1%} were among the teacher's before "
            f"training, and {ratio:.1%} after step {self.step:,} (difference {100 * low:+.1f} to {100 * high:+.1f} points); "
            f"these have {of_student:.0%} of the student's probability and {of_teacher:.0%} of the teacher's"
        )
        if not self.is_hopeless:
            return f"overlap: {overlap}: {'it grows' if low > 0 else 'too early to tell whether it grows'}"
        return (
            f"overlap: {overlap}. It did not grow in the first 5 % of the steps, as in runs that fail (arXiv 2604.13016). "
            "Their remedies: train on text that the teacher wrote first (corpus `answers`), use prompts and a template that "
            "the teacher was tuned on, or take a teacher closer to the student. Check learning_rate, too"
        )


def _mean(blocks: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(values) for values in zip(*blocks, strict=True)]
