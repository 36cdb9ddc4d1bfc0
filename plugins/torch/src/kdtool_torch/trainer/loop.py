"""The training loop: the steps of one phase, from its first or from a checkpoint to its last.

A step takes `rows_per_step` rows over micro-batches and ranks, averages and clips their gradient, and updates the
weights; then it is reported, validated and checkpointed where that is due. Ctrl-C and stop signals end the step first,
so that a checkpoint can hold it.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn, Self

import kdtool
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from kdtool_torch.batch import collate, count_targets, move
from kdtool_torch.device import max_over_ranks, seed_generators, sum_over_ranks
from kdtool_torch.head import weight_sums
from kdtool_torch.inputs import MicroBatch, RowsInOrder, StepInputs, TeacherSignals
from kdtool_torch.machine import dtype_name, memory_of_process
from kdtool_torch.numerics import autocast_to
from kdtool_torch.objective import DistillationModule
from kdtool_torch.stats import overlaps_of_all, raise_nonfinite_gradient
from kdtool_torch.trainer.checkpoint import Checkpointing, changing, checkpoint_step, restore_weights
from kdtool_torch.trainer.on_policy import OnPolicySampler
from kdtool_torch.trainer.optimizer import build_optimizer
from kdtool_torch.trainer.parallel import Sharding
from kdtool_torch.trainer.progress import (
    HISTORY,
    EarlyVerdict,
    Progress,
    add_token_weights,
    append_to_history,
    begin_step,
    learning_rate_factor,
    report_overlap,
    report_terms,
)
from kdtool_torch.trainer.settings import StandardTrainerConfig
from kdtool_torch.trainer.validation import Validator


class TrainingLoop:
    """One phase's loop. `resume` and then `train` run it; `step` and `progress` hold what is done."""

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        module: DistillationModule,
        device: torch.device,
        sampler: OnPolicySampler | None = None,
        validator: Validator | None = None,
    ) -> None:
        self.config, self.run, self.phase, self.module, self.device = config, run, phase, module, device
        self.sampler, self.validator = sampler, validator
        shards = config.sharding != "off" and run.world > 1
        self.sharding = Sharding(module, device, config.sharding) if shards else None
        self.model: torch.nn.Module = module
        if run.world > 1 and not shards:
            self.model = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
        self.optimizer = build_optimizer(config, run, module)
        self.scaler = torch.amp.GradScaler(device.type, enabled=module.sizes.dtype == torch.float16)
        self.progress = Progress(
            world=run.world, dtype=dtype_name(module.sizes.dtype), on_policy=None if sampler is None else sampler.counts
        )
        self.teachers = TeacherSignals(
            run, phase, module.language_model, module.sizes.dtype, module.sizes.head_chunk_size
        )
        self.checkpoints = Checkpointing(config, run, phase, module, self.optimizer, self.scaler, validator, device)
        self.stop = StopSignal()
        self.step = 0
        """Steps that are done."""
        self._balancing = run.implementing("kdtool_balance")
        self._verdict = EarlyVerdict(config, run, phase, module.chunk_loss.terms, self._overlaps)
        self._weighs = bool(run.implementing("kdtool_token_weight")) and bool(module.chunk_loss.terms)
        self._clock = perf_counter()
        self._weights: list[float] = []
        self._learning_rate = self._gradient_norm = 0.0
        self._figures = module.stats.read(torch.zeros((), device=device))

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.progress = self.checkpoints.load(folder)
        self.progress.world = self.run.world
        self.step = checkpoint_step(folder)
        if self.validator is not None and self.progress.best is not None and self.run.rank == 0:
            self.validator.restore(self.progress.best, folder)
        if self.sampler is not None:
            self.sampler.counts.update(self.progress.on_policy or {})
            self.progress.on_policy = self.sampler.counts

    def train(self) -> None:
        """Make the phase's remaining steps."""
        config, world = self.config, self.run.world
        if self.step == 0:
            if self.validator is not None and self.run.rank == 0:
                self.validator.try_out()
            self._verdict.begin(self.progress)
        micro_batches = config.micro_batches(world)
        rows = RowsInOrder(self.phase.rows, self.phase.steps * micro_batches * config.batch * world, self.run.seed)
        teachers = self.teachers if self.sampler is None else None  # on-policy text has no signals yet
        self._clock = perf_counter()
        self.checkpoints.restart_clock()
        try:
            inputs = StepInputs(
                rows, config.batch, micro_batches, self.run.rank, world, self.device, teachers, self.step
            )
            with closing(inputs):
                over = self._is_over()  # a phase may be stopped while its last validation runs
                while not over and self.step < self.phase.steps:
                    over = self.make_step(inputs)
            if self._weighs and self.progress.token_weights == {}:
                raise kdtool.UsageError(
                    f"weightings: no token of phase {self.phase.name!r} had a weight, so nothing was learned; give some "
                    "tokens a weight above 0"
                )
            self.checkpoints.finish()
        finally:
            self.checkpoints.close()

    def make_step(self, inputs: StepInputs) -> bool:
        """Make one step, and return whether training ends after it, since the student no longer improves."""
        self.module.train()
        batches = inputs.batches()
        micro_batches: Iterable[MicroBatch] = inputs.micro_batches()
        if self.sampler is not None:
            self.sampler.hand_over(self.step)
            batches = [self.sampler(batch, self.step + 1, number) for number, batch in enumerate(batches)]
            micro_batches = (MicroBatch(move(batch, self.device)) for batch in batches)
        tokens = self._count(batches)
        self.module.on_policy = self.sampler is not None and self.sampler.is_sampled(self.step + 1)
        if self._weighs and self.progress.token_weights is None:
            micro_batches = list(micro_batches)
            self._weigh(micro_batches, tokens)
        self.begin_step(self.step)
        for number, micro_batch in enumerate(micro_batches, 1):
            last, model = number == len(batches), self.model  # gradients are exchanged once a step
            with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
                self._backward(micro_batch, tokens)
        self._read_figures(batches, tokens)
        self._update()
        self.step += 1
        self.progress.tokens += int(tokens)
        return self.end_step(self.step)

    def begin_step(self, done: int) -> None:
        """Prepare the step after `done` steps: random numbers, weights, balance, whether gradients are measured."""
        step = done + 1
        self._seed(step)
        due = step == 1 or step % self.config.gradient_norms_every == 0
        measure = self.phase.gradient_norms or due
        self._weights = begin_step(self.module, self.run, self.progress, step, self.phase.steps, measure_norms=measure)
        self.module.measures_overlap = due and self._verdict.has_overlap

    def _seed(self, step: int) -> None:
        seed_generators(random.Random(f"{self.run.seed} {self.run.rank} {step}").getrandbits(32))

    def end_step(self, step: int) -> bool:
        """Count, report, validate and checkpoint after a step, where due; return whether training ends."""
        self.progress.seconds += perf_counter() - self._clock
        if self._weighs and step > 1:  # those of the first step are there already
            add_token_weights(self.module, self._figures, self.progress, self.run)
        regular = step % self.config.log_every == 0 or step % self.config.gradient_norms_every == 0
        last, metrics = step == self.phase.steps, dict[str, float]()
        due = self.validator is not None and self.validator.due(step)
        if self.validator is not None and due and self.run.rank == 0:
            metrics = self.validator.measure(step, changing(self.module.student))
            self.progress.best = asdict(self.validator.best) if self.validator.best else None
        over = due and self._is_over()
        if regular or due or last or step == 1:
            self._report(step, metrics)
        elif self._balancing:
            self._report_terms()
        self._verdict.judge(self.progress, step)
        self._checkpoint(step, last=last or over)
        self._clock = perf_counter()
        return over

    def take_best(self) -> None:
        """Give the student the weights with which it was best, if a validation was watched."""
        weights = None if self.validator is None else self.validator.best_weights()
        if weights is not None:
            restore_weights(self.module.student, weights, self.phase.checkpoints)

    def _count(self, batches: Sequence[kdtool.Batch]) -> float:
        """Return the positions in the step's loss mask over all ranks."""
        return sum_over_ranks([sum(map(count_targets, batches))], self.run.world)[0]

    def _backward(self, micro_batch: MicroBatch, tokens: float) -> None:
        """Add a micro-batch's gradient."""
        loss = self._compute(self.model, micro_batch, tokens)
        scaled = self.scaler.scale(loss * self.run.world)  # torch averages over ranks
        scaled.backward()  # type: ignore[no-untyped-call]

    def _compute(self, model: torch.nn.Module, micro_batch: MicroBatch, tokens: float) -> Tensor:
        """Return a micro-batch's loss. Teachers choose their own precision."""
        with torch.no_grad():
            micro_batch = self.teachers.query_live(micro_batch)
        with self._autocast():
            self.module.measure_norms(micro_batch, tokens)
        with self._autocast():
            loss: Tensor = model(micro_batch, tokens)["loss"]
        return loss

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast_to(self.module.sizes.dtype, self.device)

    def _read_figures(self, batches: Sequence[kdtool.Batch], tokens: float) -> None:
        """Clip the gradient, and read the step's figures: the only time in a step that the host waits for a GPU."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.gradient_clip or math.inf)
        self._figures = self.module.stats.read(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if any(max_over_ranks([not self._figures.is_finite], self.run.world)):
            self._name_culprit(batches, tokens)
        self._gradient_norm = self._check_norm(self._figures.gradient_norm)

    def _name_culprit(self, batches: Sequence[kdtool.Batch], tokens: float) -> NoReturn:
        """Compute the step's losses again, checking each at once, and raise with the name of the first culprit."""
        self.module.checks_at_once = True
        self._seed(self.step + 1)
        for batch in batches:
            moved = move(batch, self.device)
            self._compute(self.module, MicroBatch(moved) if self.sampler else self.teachers.recall(moved), tokens)
        max_over_ranks([0.0], self.run.world)  # a rank with a culprit has raised: its error is the one to read
        raise kdtool.UsageError(
            f"a loss is not finite at step {self.step + 1}, but computed again it is finite: it draws random numbers, or "
            "depends on more than its inputs. A lower learning_rate or dtype: float32 are the remedy; the last checkpoint "
            "is kept"
        )

    def _update(self) -> None:
        """Update the weights. float16 skips the update if the gradient overflowed."""
        # A skipped step is a step like any other for the schedule, counts and balance, whose figures come from forward.
        factor = learning_rate_factor(self.config, self.step, self.phase.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self._learning_rate = self.config.learning_rate * factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def _check_norm(self, norm: float) -> float:
        """Return the gradient's norm, 0 if float16's scaling made it overflow; raise if nothing else explains it."""
        if math.isfinite(norm):
            return norm
        if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:  # no scaling of the loss made it overflow
            raise_nonfinite_gradient(norm, self.step + 1, self.module.terms)
        self.progress.skipped += 1
        return 0.0

    def _weigh(self, micro_batches: Iterable[MicroBatch], tokens: float) -> None:
        """Weigh the tokens of the first step before it is made: its own weights are all that is known of their mean."""
        with torch.no_grad():
            for micro_batch in micro_batches:
                asked = self.teachers.query_live(micro_batch)
                with self._autocast():
                    self.module.add_weights(self.module(asked, tokens, only=weight_sums)["only"])
        self._figures = self.module.stats.read(torch.zeros((), device=self.device))
        add_token_weights(self.module, self._figures, self.progress, self.run)

    def _overlaps(self, rows: list[kdtool.Row]) -> Tensor:
        """Return the overlap at all positions of some rows, [N, 3]; with dropout, the same each time."""
        with torch.no_grad():
            micro_batch = self.teachers(move(collate(rows), self.device))
        seed_generators(self.run.seed)
        with self._autocast():
            found: Tensor = self.module(micro_batch, 1.0, only=overlaps_of_all)["only"]
        if self.sharding is not None:
            self.sharding.reshard()
        return found

    def _report_terms(self) -> dict[str, kdtool.TermReport]:
        return report_terms(
            self.module, self._figures, self._weights, self.progress, self.run, self.phase.gradient_norms
        )

    def _report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a step to history and trackers."""
        terms = self._report_terms()
        report = kdtool.StepReport(
            step=step,
            steps=self.phase.steps,
            tokens=self.progress.tokens,
            seconds=self.progress.seconds,
            loss=sum(term.value * term.weight for term in terms.values()),
            learning_rate=self._learning_rate,
            gradient_norm=self._gradient_norm,
            terms=terms,
            metrics=metrics,
            figures=report_overlap(self._figures, self.run) if self.module.measures_overlap else {},
            memory=memory_of_process(self.device),
        )
        if self.run.rank == 0:
            append_to_history(self.phase.checkpoints / HISTORY, report)
            self.run.hook.kdtool_step_end(self.run, report)
            self.run.hook.kdtool_progress(self.run, report.step, None)

    def _is_over(self) -> bool:
        """Return whether the student has not improved for as many validations as are allowed, as rank 0 knows."""
        return any(max_over_ranks([self.validator is not None and self.validator.over], self.run.world))

    def _checkpoint(self, step: int, last: bool) -> None:
        """Write a checkpoint if one is due, except after the last step; or if a stop signal came, and then stop.

        Clocks of ranks differ: rank 0 decides. A signal may have reached only some ranks, and all stop at the same step.
        """
        is_due = self.run.rank == 0 and not last and self.checkpoints.is_due(step)
        number, due = map(int, max_over_ranks([self.stop.number, is_due], self.run.world))
        if due or number:
            self.checkpoints.save(step, self.progress)
        if number:
            self.checkpoints.finish()
            max_over_ranks([0.0], self.run.world)  # rank 0 has committed it
            self.stop.number = number
            self.stop.deliver()
        self.checkpoints.poll()


_STOPS = ("SIGINT", "SIGTERM", "SIGBREAK")
_NOTE = b"\nStopping after this step, with a checkpoint. Another signal stops at once.\n"


class StopSignal:
    """Defers stop signals within its block, and delivers one that is left at its end. `number` is 0 until one arrives."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Record the next stop signal. An ignored one stays ignored; only the main thread can have handlers."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (getattr(signal, name) for name in _STOPS if hasattr(signal, name)):
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Deliver a signal that is left, unless the block failed."""
        self.restore() if failed else self.deliver()

    def restore(self) -> None:
        """Restore the handlers that were there before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def deliver(self) -> None:
        """Have the noted signal do now what it does elsewhere."""
        self.restore()
        if self.number:
            number, self.number = self.number, 0
            signal.raise_signal(number)

    def _note(self, number: int, _: Any) -> None:
        self.number = number
        self.restore()  # the next one stops at once
        with suppress(OSError):
            os.write(2, _NOTE)  # a stream may be in the middle of a write
