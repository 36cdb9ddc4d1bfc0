"""The training loop: `transformers.Trainer` with our module, our order of rows and our reports.

Built and run by `_train`. `transformers.Trainer` does accumulation, autocast, gradient scaling, DDP, clipping and the
optimiser; `ResumableTrainer`, between the two, does checkpoints. This class overrides what happens and what is reported at
each step. `_get_grad_norm`, `_get_num_items_in_batch`, `_get_train_sampler`, `_save_checkpoint` and
`_defer_fsdp_gradient_reduction` are private names: the minor version of transformers is pinned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from time import perf_counter
from typing import Any

import kdtool
import torch
import torch.distributed as dist
import transformers
from kdtool_torch import WeightMeans, collate
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers.trainer_callback import PrinterCallback

from kdtool_trainer_standard import _history
from kdtool_trainer_standard._config import StandardTrainerConfig
from kdtool_trainer_standard._denominators import count_corpus
from kdtool_trainer_standard._divergence import explain_gradient, largest_weight
from kdtool_trainer_standard._history import HISTORY
from kdtool_trainer_standard._loss_mask import loss_labels
from kdtool_trainer_standard._machine import memory_of_process
from kdtool_trainer_standard._module import DistillationModule
from kdtool_trainer_standard._named_optimizer import make_named_optimizer, named_optimizer
from kdtool_trainer_standard._on_policy import STUDENT_GENERATED, OnPolicySampler
from kdtool_trainer_standard._order import RowsInOrder
from kdtool_trainer_standard._resumable import ResumableTrainer, changing, restore
from kdtool_trainer_standard._schedule import learning_rate_factor
from kdtool_trainer_standard._stopping import StopSignal
from kdtool_trainer_standard._teacher_signals import TeacherSignals
from kdtool_trainer_standard._validation import Validator

__all__ = ["TrainingLoop"]


class TrainingLoop(ResumableTrainer):
    """One phase's loop. `train(resume_from_checkpoint=…)` runs it; `progress` then holds its totals."""

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        module: DistillationModule,
        args: transformers.TrainingArguments,
        sampler: OnPolicySampler | None = None,
        validator: Validator | None = None,
    ) -> None:
        places = phase.steps * config.accumulation * config.batch * run.world
        super().__init__(
            config,
            run,
            phase,
            module,
            args,
            sampler,
            validator,
            train_dataset=RowsInOrder(phase.rows, places, run.seed),
            data_collator=_inputs,
            callbacks=[_StepCallback(self)],
        )
        self.remove_callback(PrinterCallback)
        if args.fp16 and args.device.type == "cpu":  # accelerate leaves out both without a word
            self.accelerator.native_amp, self.accelerator.scaler = True, torch.amp.GradScaler("cpu")
        self.teachers = TeacherSignals(run, phase, module.sizes.dtype)
        self.stop = StopSignal()
        self._balancing = run.implementing("kdtool_balance")
        self._weighs = bool(run.implementing("kdtool_token_weight")) and bool(module.chunk_loss.terms)
        self._clock = self._last_checkpoint = perf_counter()
        self._weights: list[float] = []
        self._metrics: Mapping[str, float] = {}

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> Any:
        """Fetch a step's micro-batches; on-policy ones are sampled before their labels are counted."""
        batches = epoch_iterator if self.sampler is None else self._with_samples(self.sampler, epoch_iterator)
        fetched, tokens = super().get_batch_samples(batches, num_batches, device)
        if fetched and STUDENT_GENERATED in fetched[0]["columns"]:
            self.module.corpus = count_corpus(fetched, self.args.device, self.run.world)
        if self._weighs and self.progress.token_weights is None and fetched:
            self._weigh(fetched, tokens)
        return fetched, tokens

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Ask the teachers, then the module. Teachers choose their own precision."""
        batch = kdtool.Batch(**inputs)
        with torch.no_grad():
            teacher_batches, signals = self.teachers(batch)
        self.module.measure_norms(
            batch, signals, 0 if num_items_in_batch is None else num_items_in_batch, teacher_batches
        )
        asked = {"batch": batch, "signals": signals, "teacher_batches": teacher_batches}
        return super().compute_loss(model, asked, return_outputs, num_items_in_batch=num_items_in_batch)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> Any:
        """Make the optimizer that the recipe names, or AdamW."""
        component = named_optimizer(self.run, self.config.sharding)
        if component is not None and self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = make_named_optimizer(component, self.run, self.module, self.config.learning_rate)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Make the recipe's schedule: warm-up, then cosine or line to 10 %, or constant."""
        if self.lr_scheduler is None:  # type: ignore[has-type]
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: learning_rate_factor(self.config, step, num_training_steps),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def begin_step(self, done: int) -> None:
        """Prepare the module for the step after `done` steps: weights, balance, whether gradients are measured."""
        step, progress = done + 1, done / max(1, self.phase.steps - 1)
        balance = self._balance(step)
        terms = self.module.terms
        self._weights = [bound.term.weight_at(progress) * balance.get(bound.term.name, 1.0) for bound in terms]
        factors = [weight * bound.term.scale for weight, bound in zip(self._weights, terms, strict=True)]
        self.module.begin_step(step, progress, factors, self._measures(step))
        if self._weighs:
            means = WeightMeans(self.progress.token_weights or {})
            self.module.mean_weights.copy_(
                torch.tensor([means.of(bound.term.name) for bound in terms if bound.per_token])
            )

    def end_step(self, step: int, control: transformers.TrainerControl) -> None:
        """Count, and decide what happens after this step."""
        now = perf_counter()
        self.progress.seconds += now - self._clock
        self.progress.tokens += int(self.module.stats.tokens)
        if self._weighs and step > 1:  # those of the first step are there already
            self._add_weights()
        self._clock = now
        regular = step % self.config.log_every == 0 or step % self.config.gradient_norms_every == 0
        control.should_log = regular or step in (1, self.phase.steps)
        if self._balancing and not control.should_log:
            self._term_reports()
        over = False
        if self.validator is not None and self.validator.due(step):
            over = self._validate(self.validator, step)
            control.should_log, control.should_training_stop = True, control.should_training_stop or over
        due = self._checkpoint_is_due(step, now) and step < self.phase.steps
        control.should_save = not over and (due or bool(self.stop.number))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Report a step to history and trackers. Called by the parent, also once at the end with totals."""
        if "grad_norm" not in logs:
            return
        terms = self._term_reports()
        report = kdtool.StepReport(
            step=self.state.global_step,
            steps=self.phase.steps,
            tokens=self.progress.tokens,
            seconds=self.progress.seconds,
            loss=sum(term.value * term.weight for term in terms.values()),
            learning_rate=logs["learning_rate"],
            gradient_norm=float(logs["grad_norm"]),
            terms=terms,
            metrics=self._metrics,
            memory=memory_of_process(self.args.device),
        )
        self.control.should_log, self._metrics = False, {}
        if self.run.rank == 0:
            _history.append(self.phase.checkpoints / HISTORY, report)
            self.run.hook.kdtool_step_end(self.run, report)
            self.run.hook.kdtool_progress(self.run, report.step)
        self._clock = perf_counter()

    def note_start(self) -> None:
        """Record the largest weight at the beginning of the phase."""
        if self.state.global_step == 0:
            self.progress.largest_weight = largest_weight(self.module.student)

    def restart_clock(self) -> None:
        """Start the clock after set-up."""
        self._clock = self._last_checkpoint = perf_counter()

    def take_best(self) -> None:
        """Give the student the weights with which it was best, if a validation was watched."""
        weights = None if self.validator is None else self.validator.best_weights()
        if weights is not None:
            restore(self.module.student, weights, self.phase.checkpoints)

    def _validate(self, validator: Validator, step: int) -> bool:
        """Measure the student, and return whether training ends."""
        if self.run.rank == 0:
            self._metrics = validator.measure(step, changing(self.module.student))
            self.progress.best = asdict(validator.best) if validator.best else None
        over = torch.tensor(float(validator.over), device=self.args.device)
        if self.run.world > 1:
            dist.broadcast(over, 0)
        self._clock = perf_counter()
        return bool(over)

    def _weigh(self, fetched: Sequence[dict[str, Any]], tokens: Tensor | int) -> None:
        """Weigh the tokens of the first step before it is made: its own weights are all that is known of their mean."""
        device = self.args.device
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for inputs in fetched:
                batch = kdtool.Batch(**self._prepare_inputs(inputs))
                _, signals = self.teachers(batch)
                with self.compute_loss_context_manager():
                    self.module(batch, signals, tokens, weights_only=True)
        self._add_weights()

    def _add_weights(self) -> None:
        """Add the step's token weights, of all ranks, to the running means."""
        weights, seen = self.module.stats.weights.clone(), self.module.stats.seen
        if self.run.world > 1:
            dist.all_reduce(weights)
        names = [bound.term.name for bound in self.module.terms]
        means = WeightMeans(self.progress.token_weights or {})
        means.add(dict(zip(names, weights.tolist(), strict=True)), dict(zip(names, seen.tolist(), strict=True)))
        self.progress.token_weights = means.state

    def _with_samples(self, sampler: OnPolicySampler, fetched: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for number, inputs in enumerate(fetched):
            yield _as_inputs(sampler(kdtool.Batch(**inputs), self.state.global_step + 1, number))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)  # the dataset is in order already

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        counted = [{"labels": loss_labels(inputs["labels"], inputs["columns"])} for inputs in batch_samples]
        return super()._get_num_items_in_batch(counted, device)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = float(super()._get_grad_norm(model, grad_norm))
        if math.isfinite(norm):
            return norm
        scaler = self.accelerator.scaler
        if scaler is None or scaler.get_scale() < 1:  # no scaling of the loss made it overflow
            step, before = self.state.global_step + 1, self.progress.largest_weight
            raise explain_gradient(norm, step, before, largest_weight(self.module.student), self.module.terms)
        # The optimiser leaves the weights alone, and the scale is halved. It is a step like any other for schedules, counts
        # and balance, whose figures come from forward: those are right.
        self.progress.skipped += 1
        return 0.0

    def _balance(self, step: int) -> Mapping[str, float]:
        stats = self.progress.stats
        if not self._balancing or stats is None:
            return {}
        product = {bound.term.name: 1.0 for bound in self.module.terms}
        for who in self._balancing:
            state = self.progress.states.setdefault(who, {})
            factors = self.run.component(who, kdtool.Weighting).kdtool_balance(stats, step, state) or {}
            bad = {
                name: factor for name, factor in factors.items() if name not in product or not 0 <= factor < math.inf
            }
            if bad:
                raise kdtool.PluginError(
                    f"{self.run.hook.owner(who) or who} balanced {bad}; expected factors that are finite and not negative, "
                    f"for {', '.join(sorted(product))}"
                )
            product |= {name: product[name] * factor for name, factor in factors.items()}
        return product

    def _measures(self, step: int) -> bool:
        return self.phase.gradient_norms or step == 1 or step % self.config.gradient_norms_every == 0

    def _term_reports(self) -> dict[str, kdtool.TermReport]:
        """Gather this step's terms over ranks; also what balancing and the final notes need."""
        step_stats, measured = self.module.stats, self.module.measures_norms
        gathered = torch.stack([step_stats.values, step_stats.squared_norms])
        if self.run.world > 1:
            dist.all_reduce(gathered)
        figures = zip(self.module.terms, self._weights, *gathered.tolist(), step_stats.seen.tolist(), strict=True)
        reports, stats = dict[str, kdtool.TermReport](), dict[str, kdtool.TermReport]()
        norms, last = dict(self.progress.squared_norms or {}), dict(self.progress.last_values or {})
        for bound, weight, value, square, seen in figures:
            if not seen:  # a mean over nothing is no figure
                continue
            term, norm = bound.term, math.sqrt(square) if measured else None
            reports[term.label] = kdtool.TermReport(value * term.scale, weight, norm)
            # Norms that no weighting asks for exist only at some steps: nothing may depend on them.
            stats[term.name] = kdtool.TermReport(
                value * term.scale, weight, norm if self.phase.gradient_norms else None
            )
            if measured:
                norms[term.name] = norms.get(term.name, 0.0) + square
            last[term.name] = value
        self.progress.squared_norms, self.progress.last_values, self.progress.stats = norms, last, stats
        return reports

    def _checkpoint_is_due(self, step: int, now: float) -> bool:
        """Return whether rank 0 writes regular checkpoints now; all ranks note a stop signal of any."""
        every = self.config.checkpoint_every
        due = (
            step % every == 0 if isinstance(every, int) else now - self._last_checkpoint >= int(every.removesuffix("s"))
        )
        if self.run.world == 1:
            return due
        # Clocks differ: rank 0 decides. A signal may have reached only some ranks, and all must stop at the same step.
        agreed = torch.tensor([self.stop.number, due and self.run.rank == 0], device=self.args.device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        self.stop.number, due_on_rank_0 = agreed.tolist()
        return bool(due_on_rank_0)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.stop.number:
            self.stop.deliver()
        self.restart_clock()

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        yield  # gradients are divided after each micro-batch: whole ones would take the memory that sharding saves


class _StepCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Passes the parent's events on to the loop."""

    def __init__(self, loop: TrainingLoop) -> None:
        self._loop = loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        loop = self._loop
        if loop.validator is not None and state.global_step == 0 and loop.run.rank == 0:
            loop.validator.try_out()
        loop.note_start()
        loop.restart_clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._loop.begin_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._loop.end_step(state.global_step, control)


def _inputs(rows: Sequence[kdtool.Row]) -> dict[str, Any]:
    """Make the parent's kind of batch."""
    return _as_inputs(collate(rows))


def _as_inputs(batch: kdtool.Batch) -> dict[str, Any]:
    """Return a batch as the dictionary in which the parent finds `labels` to count."""
    return {name: getattr(batch, name) for name in batch.__dataclass_fields__}
