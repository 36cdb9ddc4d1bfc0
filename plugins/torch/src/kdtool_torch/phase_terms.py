"""The terms of a phase on some of its rows, for your own trainers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch.batch import collate, count_targets, move
from kdtool_torch.device import isolated_rng, sum_over_ranks
from kdtool_torch.numerics import product_dtype

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdtool_torch.inputs import MicroBatch, TeacherSignals
    from kdtool_torch.objective import DistillationModule


class PhaseTerms:
    """The losses of a phase with their weights, teachers, weightings and trained modules, evaluated on rows.

    All is computed as in the trainer `standard`: logits exist for one chunk of positions after the other, and the first rows
    with labels test student, teachers and losses. With several processes each evaluates its own rows of a step; add up the
    gradients of all. DDP takes their mean, so multiply each loss by `run.world`.

    Train `modules` with the student. Store `reports`, `token_weights` and `states` in checkpoints: the last step's figures
    by term, which weightings of losses use to compute the next weights; the state of `WeightMeans`; and what weightings of
    losses keep from step to step, as JSON can express it. A term without tokens is missing in the reports.

    Args:
        run: of the trainer.
        phase: the phase to train.
        student: its backbone runs once per micro-batch for each pass that losses ask for, with gradient.

    Raises:
        kdtool.UsageError: the phase has no rows.
    """

    modules: nn.ModuleDict
    reports: Mapping[str, kdtool.TermReport]
    states: dict[str, dict[str, Any]]
    token_weights: Mapping[str, Sequence[float]] | None

    def __init__(self, run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel) -> None:
        from torch import nn

        from kdtool_torch.objective import make_loss_modules, module_key

        if not len(phase.rows):
            raise kdtool.UsageError(f"phase {phase.name!r} has no rows: give it a corpus with more text")
        self._run, self._phase, self._student = run, phase, student
        self._device = student.head.weight.device
        self._teachers: TeacherSignals | None = None
        self._objective: DistillationModule | None = None
        self._is_tested = False
        self._loss_modules = make_loss_modules(run, phase, student)
        self.modules = nn.ModuleDict({module_key(name): module for name, module in self._loss_modules.items()})
        self.modules.to(self._device)
        self.reports, self.states, self.token_weights = {}, {}, None

    def loss(self, rows: Sequence[int], step: int) -> tuple[Tensor, int]:
        """Return the loss of a step that is one micro-batch, and its number of tokens: see `losses`."""
        ((loss, tokens),) = self.losses([rows], step)
        return loss, tokens

    def losses(self, micro_batches: Sequence[Sequence[int]], step: int) -> Iterator[tuple[Tensor, int]]:
        """Yield each micro-batch's share of the step's loss, with gradient, and the number of tokens learned from.

        Call `backward` once on each loss, before the next is computed. The gradients add up to those of the whole step,
        however it is divided. `reports` and `token_weights` are those of the step once all losses are taken. All processes
        call it for the same steps, and take all losses.

        Args:
            micro_batches: numbers of the rows of each, of this process.
            step: from 1.

        Raises:
            kdtool.UsageError: teacher, student and losses do not fit together.
            kdtool.PluginError: a loss returns something else than one finite float32 value for each position.
        """
        import torch

        from kdtool_torch.head import weight_sums
        from kdtool_torch.trainer.progress import Progress, add_token_weights, begin_step, report_terms

        batches = [collate([self._phase.rows[row] for row in rows]) for rows in micro_batches]
        counts = [count_targets(batch) for batch in batches]
        tokens, rows = sum_over_ranks([sum(counts), sum(map(len, micro_batches))], self._run.world)
        fullest = max(range(len(counts)), key=counts.__getitem__)
        objective = self._bind(batches[fullest], counts[fullest])
        dtype = product_dtype(self._student.head.weight)
        objective.sizes = replace(objective.sizes, dtype=dtype, rows_per_step=int(rows))
        progress = Progress(stats=self.reports or None, states=self.states, token_weights=self.token_weights)
        steps, zero = self._phase.steps, torch.zeros((), device=self._device)
        weights = begin_step(objective, self._run, progress, step, steps, measure_norms=False)
        weighs = bool(self._run.implementing("kdtool_token_weight")) and bool(objective.chunk_loss.terms)
        first = weighs and self.token_weights is None
        if first:  # its own weights are all that is known of their mean
            with torch.no_grad(), isolated_rng():
                for batch in batches:
                    objective.add_weights(objective(self._query(batch), tokens, only=weight_sums)["only"])
            add_token_weights(objective, objective.stats.read(zero), progress, self._run)
            begin_step(objective, self._run, progress, step, steps, measure_norms=False)
        for batch, count in zip(batches, counts, strict=True):
            yield objective(self._query(batch), tokens)["loss"], count
        figures = objective.stats.read(zero)
        report_terms(objective, figures, weights, progress, self._run, keep_norms=False)
        if weighs and not first:
            add_token_weights(objective, figures, progress, self._run)
        self.reports, self.token_weights = progress.stats or {}, progress.token_weights

    def _query(self, batch: kdtool.Batch) -> MicroBatch:
        import torch

        from kdtool_torch.inputs import TeacherSignals

        if self._teachers is None:
            dtype = product_dtype(self._student.head.weight)
            self._teachers = TeacherSignals(self._run, self._phase, self._student, dtype)
        with torch.no_grad():
            return self._teachers(move(batch, self._device))

    def _bind(self, batch: kdtool.Batch, targets: int) -> DistillationModule:
        """Return the objective: made for the teachers' signals of the first batch, tested on the first with targets."""
        from kdtool_torch.machine import chunk_sizes
        from kdtool_torch.objective import DistillationModule, Sizes
        from kdtool_torch.trainer.selftest import self_test

        if self._is_tested and self._objective is not None:
            return self._objective
        with isolated_rng():
            micro_batch = self._query(batch)
            if self._objective is None:
                dtype = product_dtype(self._student.head.weight)
                sizes = Sizes(dtype, *chunk_sizes(self._student.head.vocabulary, self._device), rows_per_step=1)
                objective = DistillationModule.bind(
                    self._run, self._phase, self._student, micro_batch.signals, self._loss_modules, sizes
                )
                objective.checks_at_once = True
                self._objective = objective
            if targets:
                self_test(self._run, self._objective, micro_batch)
                self._is_tested = True
        return self._objective
