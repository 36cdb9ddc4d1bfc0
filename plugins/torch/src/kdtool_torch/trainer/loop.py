"""The training loop: the steps of one phase, from its first or from a checkpoint to its last.

A step takes `rows_per_step` rows over micro-batches and ranks, averages and clips their gradient, and updates the
weights. Validation, reports, the early verdict and checkpoints are observers: each is called with the loop after every
step on every rank, in the order of `observers`, and can be left out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from time import perf_counter
from typing import NoReturn

import kdtool
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from kdtool_torch.batch import collate, count_targets, move
from kdtool_torch.device import max_over_ranks, seed_generators, sum_over_ranks
from kdtool_torch.head import HeadWork
from kdtool_torch.inputs import MicroBatch, RowsInOrder, StepInputs
from kdtool_torch.machine import dtype_name
from kdtool_torch.numerics import autocast_to
from kdtool_torch.objective import Objective
from kdtool_torch.stats import raise_nonfinite_gradient
from kdtool_torch.trainer.checkpoint import Checkpointing, checkpoint_step, restore_weights
from kdtool_torch.trainer.on_policy import OnPolicySampler
from kdtool_torch.trainer.optimizer import build_optimizer
from kdtool_torch.trainer.parallel import Sharding
from kdtool_torch.trainer.progress import Observer, Progress, Reports, learning_rate_factor
from kdtool_torch.trainer.settings import StandardTrainerConfig
from kdtool_torch.trainer.stop import StopSignal
from kdtool_torch.trainer.validation import Validator
from kdtool_torch.trainer.verdict import EarlyVerdict


class TrainingLoop:
    """One phase's loop. `resume` and then `train` run it; `step` and `progress` hold what is done."""

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        objective: Objective,
        device: torch.device,
        sampler: OnPolicySampler | None = None,
        validator: Validator | None = None,
    ) -> None:
        self.config, self.run, self.phase, self.objective, self.device = config, run, phase, objective, device
        self.sampler, self.validator = sampler, validator
        shards = config.sharding != "off" and run.world > 1
        self.sharding = Sharding(objective, device, config.sharding) if shards else None
        self.model: torch.nn.Module = objective
        if run.world > 1 and not shards:
            self.model = DistributedDataParallel(objective, device_ids=[device] if device.type == "cuda" else None)
        self.optimizer = build_optimizer(config, run, objective)
        self.scaler = torch.amp.GradScaler(device.type, enabled=objective.sizes.dtype == torch.float16)
        self.progress = Progress(
            terms=objective.state,
            world=run.world,
            dtype=dtype_name(objective.sizes.dtype),
            on_policy=None if sampler is None else sampler.counts,
        )
        self.checkpoints = Checkpointing(config, run, phase, objective, self.optimizer, self.scaler, validator, device)
        self.verdict = EarlyVerdict(config, run, phase, objective.chunk_loss.terms, self.compute)
        verdict = self.verdict if self.verdict.step else None
        observers: tuple[Observer | None, ...] = (validator, Reports(), verdict, self.checkpoints)
        self.observers = [observer for observer in observers if observer is not None]
        self.stop = StopSignal()
        self.step, self.over = 0, False
        self.metrics: Mapping[str, float] | None = None
        self.learning_rate = self.gradient_norm = 0.0
        self.figures = objective.stats.read(torch.zeros((), device=device))
        self._clock = perf_counter()

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.progress = self.checkpoints.load(folder)
        self.progress.world, self.objective.state = self.run.world, self.progress.terms
        self.step = checkpoint_step(folder)
        if self.validator is not None:
            self.validator.resume(self, folder)
        if self.sampler is not None:
            self.sampler.counts.update(self.progress.on_policy or {})
            self.progress.on_policy = self.sampler.counts

    def train(self) -> None:
        """Make the phase's remaining steps."""
        config, world = self.config, self.run.world
        if self.step == 0:
            if self.validator is not None and self.run.rank == 0:
                self.validator.try_out()
            self.verdict.begin(self.progress)
        count = config.micro_batches(world)
        rows = RowsInOrder(self.phase.rows, self.phase.steps * count * config.batch * world, self.run.seed)
        teachers = self.objective.teachers if self.sampler is None else None  # on-policy text has no signals yet
        self._clock = perf_counter()
        self.checkpoints.restart_clock()
        try:
            inputs = StepInputs(rows, config.batch, count, self.run.rank, world, self.device, teachers, self.step)
            with closing(inputs):
                while not self.over and self.step < self.phase.steps:
                    self.make_step(inputs)
            if self.objective.weighs and self.progress.terms.token_weights == {}:
                raise kdtool.UsageError(
                    f"weightings: no token of phase {self.phase.name!r} had a weight, so nothing was learned; give some "
                    "tokens a weight above 0"
                )
            self.checkpoints.finish()
        finally:
            self.checkpoints.close()

    def make_step(self, inputs: StepInputs) -> None:
        """Make one step: rows, signals, loss and gradient of each micro-batch, then one update of the weights."""
        objective, step = self.objective, self.step + 1
        objective.train()
        batches = inputs.batches()
        micro_batches: Iterable[MicroBatch] = inputs.micro_batches()
        if self.sampler is not None:
            self.sampler.hand_over(self.step)
            batches = [self.sampler(batch, step, number) for number, batch in enumerate(batches)]
            micro_batches = (MicroBatch(move(batch, self.device)) for batch in batches)
        (tokens,) = sum_over_ranks([sum(map(count_targets, batches))], self.run.world)
        objective.on_policy = self.sampler is not None and self.sampler.is_sampled(step)
        if objective.weighs and self.progress.terms.token_weights is None:
            micro_batches = list(micro_batches)
            with self._autocast():
                objective.weigh(map(self._query_live, micro_batches), tokens)
        self._seed(step)
        measures = step == 1 or step % self.config.gradient_norms_every == 0
        objective.begin_step(step, measure_norms=self.phase.gradient_norms or measures)
        objective.measures_overlap = measures and self.verdict.has_overlap
        for number, micro_batch in enumerate(micro_batches, 1):
            last, model = number == len(batches), self.model  # gradients are exchanged once a step
            with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
                loss = self._compute(model, micro_batch, tokens)
                self.scaler.scale(loss * self.run.world).backward()  # type: ignore[no-untyped-call] # torch averages over ranks
        self._read_figures(batches, tokens)
        self._update()
        self.step, self.progress.tokens = step, self.progress.tokens + int(tokens)
        self.end_step(step)

    def end_step(self, step: int) -> None:
        """Have all observers look at the step."""
        self.progress.seconds += perf_counter() - self._clock
        self.objective.end_step(step, self.figures)
        for observer in self.observers:
            observer.after(self)
        self._clock = perf_counter()

    def compute(self, function: Callable[[HeadWork], Tensor], rows: Sequence[kdtool.Row]) -> Tensor:
        """Return what a function makes of some rows' work, without gradient; with dropout, the same each time."""
        with torch.no_grad():
            micro_batch = self.objective.teachers(move(collate(rows), self.device))
            seed_generators(self.run.seed)
            with self._autocast():
                found = self.objective.of_work(function, micro_batch, 1.0)
        if self.sharding is not None:
            self.sharding.reshard()
        return found

    def take_best(self) -> None:
        """Give the student the weights with which it was best, if a validation was watched."""
        weights = None if self.validator is None else self.validator.best_weights()
        if weights is not None:
            restore_weights(self.objective.student, weights, self.phase.checkpoints)

    def _seed(self, step: int) -> None:
        seed_generators(random.Random(f"{self.run.seed} {self.run.rank} {step}").getrandbits(32))

    def _query_live(self, micro_batch: MicroBatch) -> MicroBatch:
        """Ask the teachers that run with the student. They choose their own precision."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self.objective.teachers.query_live(micro_batch)

    def _compute(self, model: torch.nn.Module, micro_batch: MicroBatch, tokens: float) -> Tensor:
        """Return a micro-batch's share of the loss."""
        micro_batch = self._query_live(micro_batch)
        with self._autocast():
            self.objective.measure_norms(micro_batch, tokens)
        with self._autocast():
            loss: Tensor = model(micro_batch, tokens)
        return loss

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast_to(self.objective.sizes.dtype, self.device)

    def _read_figures(self, batches: Sequence[kdtool.Batch], tokens: float) -> None:
        """Clip the gradient, and read the step's figures: the only time in a step that the host waits for a GPU."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.gradient_clip or math.inf)
        self.figures = self.objective.stats.read(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if any(max_over_ranks([not self.figures.is_finite], self.run.world)):
            self._name_culprit(batches, tokens)
        self.gradient_norm = self._check_norm(self.figures.gradient_norm)

    def _name_culprit(self, batches: Sequence[kdtool.Batch], tokens: float) -> NoReturn:
        """Compute the step's losses again, checking each at once, and raise with the name of the first culprit."""
        self.objective.checks_at_once = True
        self._seed(self.step + 1)
        for batch in batches:
            moved = move(batch, self.device)
            micro_batch = MicroBatch(moved) if self.sampler else self.objective.teachers.recall(moved)
            self._compute(self.objective, micro_batch, tokens)
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
        self.learning_rate = self.config.learning_rate * factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def _check_norm(self, norm: float) -> float:
        """Return the gradient's norm, 0 if float16's scaling made it overflow; raise if nothing else explains it."""
        if math.isfinite(norm):
            return norm
        if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:  # no scaling of the loss made it overflow
            raise_nonfinite_gradient(norm, self.step + 1, self.objective.terms)
        self.progress.skipped += 1
        return 0.0
