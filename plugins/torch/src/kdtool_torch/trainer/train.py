"""One phase from start to end: binding, self-tests, the loop, final notes.

Called by `StandardTrainer.kdtool_train`, on every rank. Transforms are the engine's: the student comes in as it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import kdtool
import torch

from kdtool_torch.batch import collate, count_targets
from kdtool_torch.device import isolated_rng, pick_device
from kdtool_torch.inputs import RowsInOrder
from kdtool_torch.machine import chosen_dtype, chunk_sizes, dtype_name, frozen_weights_held, tuned_malloc
from kdtool_torch.objective import Objective, Sizes
from kdtool_torch.terms import compiled_or_eager, learns_on_policy
from kdtool_torch.trainer.checkpoint import checkpoint_step, find_resume_point, list_checkpoints
from kdtool_torch.trainer.loop import TrainingLoop
from kdtool_torch.trainer.on_policy import OnPolicySampler, ServedSampler
from kdtool_torch.trainer.parallel import join_group, refuse_other_dtypes
from kdtool_torch.trainer.progress import HISTORY, restore_history
from kdtool_torch.trainer.settings import StandardTrainerConfig
from kdtool_torch.trainer.validation import Validator

_EXAMINED = 1000
"""Rows that are searched for prompts without answers, where these cannot be learned."""


def train_phase(
    config: StandardTrainerConfig, run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel
) -> kdtool.Trained:
    """Train `student` in place and return what was done; see `kdtool.Trainer.kdtool_train`."""
    if not len(phase.rows):
        raise kdtool.UsageError(f"phase {phase.name!r} has no rows to learn from; check corpus, filters and row length")
    phase.checkpoints.mkdir(parents=True, exist_ok=True)
    with isolated_rng(run.seed, run.say), tuned_malloc():
        device = pick_device()
        join_group(run, device)
        dtype = chosen_dtype(config.dtype, device)
        refuse_other_dtypes(run, dtype_name(dtype))
        newest = find_resume_point(run, phase, dtype, elastic=config.rows_per_step is not None)
        _ready(student, device)
        with frozen_weights_held(student.model, dtype), ExitStack() as stack:
            loop = _Setup(config, run, phase, student, device, dtype).build(stack)
            _resume_and_train(loop, newest)
            if loop.sampler is not None and loop.sampler.served is not None:
                loop.sampler.served.remove()
            if run.rank == 0:
                loop.take_best()
            if loop.sharding is not None:
                loop.sharding.undo()
    return kdtool.Trained(
        steps=loop.step,
        tokens=loop.progress.tokens,
        seconds=loop.progress.seconds,
        history=phase.checkpoints / HISTORY,
        dtype=loop.progress.dtype,
        notes=notes_on(loop),
    )


@dataclass(frozen=True)
class _Setup:
    """The parts of a phase's loop; the student is ready to train on the device."""

    config: StandardTrainerConfig
    run: kdtool.RunInfo
    phase: kdtool.Phase
    student: kdtool.LanguageModel
    device: torch.device
    dtype: torch.dtype

    def build(self, stack: ExitStack) -> TrainingLoop:
        """Bind and check everything on some rows, and return the loop; `stack` closes what is open."""
        config, run, phase, student = self.config, self.run, self.phase, self.student
        if config.sharding != "off" and any("chosen" in source.want.kinds for source in phase.signals.values()):
            raise kdtool.UsageError(
                "a teacher is asked about the student's likeliest tokens, which needs whole weights on each process; set "
                "sharding: off, or use a loss without `support`"
            )
        batch = collate(self._first_rows(), self.device)
        sampler = self._sampler(batch, stack)
        if sampler is not None:
            sampler.try_out(batch)
            batch = sampler.mark_as_corpus(batch)
        sizes = self._sizes()
        objective = Objective(run, phase, student, sizes)
        chunk = objective.test(batch)
        if objective.chunk_loss.terms:
            to_come = phase.steps * sizes.rows_per_step * count_targets(batch) // len(batch.labels)
            compiled_or_eager(objective.chunk_loss, config.compile, chunk, to_come, run)
        validator = Validator(config.validation, run, phase, student, self.dtype) if config.validation else None
        return TrainingLoop(config, run, phase, objective, self.device, sampler, validator)

    def _first_rows(self) -> list[kdtool.Row]:
        """Return the first rows of a micro-batch's, in the order of training, that have something to learn from.

        Raises:
            UsageError: there are none, or steps on the corpus would learn from rows of prompts without answers.
        """
        count, size = len(self.phase.rows), self.config.batch
        in_order = RowsInOrder(self.phase.rows, count, self.run.seed)
        sampling = self.config.on_policy if any(map(learns_on_policy, self.phase.terms)) else None
        examined = map(in_order.__getitem__, range(min(_EXAMINED, count)))
        if sampling is not None and sampling.fraction < 1 and not all(map(_is_learned, examined)):
            raise kdtool.UsageError(
                f"on_policy.fraction: {sampling.fraction:g} has steps on the corpus, but rows of phase {self.phase.name!r} "
                "only hold prompts without answers; set it to 1, or give these prompts their own phase"
            )
        rows = list(islice(filter(_is_learned, map(in_order.__getitem__, range(count))), size))
        if not rows and sampling is not None:  # prompts without answers: any text will do for the checks
            rows = list(map(in_order.__getitem__, range(min(size, count))))
            return [replace(row, labelled=[number >= 0 for number in row.document]) for row in rows]
        if not rows:
            raise kdtool.UsageError(
                f"no row of phase {self.phase.name!r} has a labelled token: there is nothing to learn from. Prompts without "
                "answers need on_policy with fraction: 1 and a loss with a teacher; a control cannot learn from them (set "
                "`control: false`)"
            )
        return rows

    def _sampler(self, batch: kdtool.Batch, stack: ExitStack) -> OnPolicySampler | None:
        """Return the on-policy sampler if it is set and a loss learns from its text: a control's losses may not."""
        config, run, phase, student = self.config.on_policy, self.run, self.phase, self.student
        if config is None or not any(map(learns_on_policy, phase.terms)):
            return None
        if phase.teacher_rows:
            raise kdtool.UsageError(
                f"on_policy: {next(iter(phase.teacher_rows))} does not read the student's tokens, so it cannot be asked "
                "about text that the student writes; take a student with its tokenizer, or leave on_policy out"
            )
        sampler, server = OnPolicySampler(config, run, student, self.dtype), self.config.rollouts
        if server is not None and config.sampler == "vllm":
            sampler.served = ServedSampler(server, config, run, phase.checkpoints, student, self.dtype, batch)
            stack.callback(sampler.served.close)
        return sampler

    def _sizes(self) -> Sizes:
        config, world = self.config, self.run.world
        head_chunk_size, loss_chunk_size = chunk_sizes(self.student.head.vocabulary, self.device)
        return Sizes(
            dtype=self.dtype,
            head_chunk_size=config.head_chunk_size or head_chunk_size,
            loss_chunk_size=config.loss_chunk_size or loss_chunk_size,
            rows_per_step=config.batch * config.micro_batches(world) * world,
        )


def _is_learned(row: kdtool.Row) -> bool:
    """Return whether a row has a label after a token of the same document."""
    same = (before == after for before, after in pairwise(row.document))
    return any(labelled and joined for labelled, joined in zip(row.labelled[1:], same, strict=True))


def _ready(student: kdtool.LanguageModel, device: torch.device) -> None:
    """Move the student to its device; weights that learn are float32, and autocast computes in less."""
    student.model.to(device)
    student.model.train()
    for parameter in student.model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def _resume_and_train(loop: TrainingLoop, newest: Path | None) -> None:
    run = loop.run
    if newest is not None:
        loop.resume(newest)
    if run.rank == 0:
        history = loop.phase.checkpoints / HISTORY
        if newest is not None:
            run.say(f"phase {loop.phase.name!r} resumes at step {loop.step} of {loop.phase.steps}")
        elif history.is_file():
            run.say(f"phase {loop.phase.name!r} starts again: it was interrupted before its first checkpoint")
        restore_history(history, newest)
        kdtool.commit(loop.phase.checkpoints, history, growing=True)  # its presence shows that steps were made
    try:
        with loop.stop:
            loop.train()
    except KeyboardInterrupt:
        run.say(_describe_interruption(loop))
        raise


def _describe_interruption(loop: TrainingLoop) -> str:
    kept = list_checkpoints(loop.phase.checkpoints)
    then = f"resumes at step {checkpoint_step(kept[-1])}" if kept else "starts again, since no checkpoint was written"
    return f"phase {loop.phase.name!r} was interrupted at step {loop.step} of {loop.phase.steps}; it {then}"


_SILENT_SHARE = 0.01
"""A term below this share of the terms' gradient over a whole phase gets a note."""


def notes_on(loop: TrainingLoop) -> tuple[str, ...]:
    """Return the notes on a phase that has been trained."""
    progress = loop.progress
    notes = list(_on_policy_notes(progress.on_policy))
    if loop.config.sharding != "off" and loop.sharding is None:
        notes.append(
            f"sharding: {loop.config.sharding} had no effect, because there was only one process (docs/several-gpus.md "
            "explains how to start several)"
        )
    if progress.skipped:
        notes.append(
            f"{progress.skipped} of {loop.phase.steps} steps changed nothing: gradients overflowed float16, and the "
            "scale of the loss was halved"
        )
    notes += filter(None, [progress.hopeless])
    notes += _describe_best(loop)
    squares = progress.terms.squared_norms or {}
    total = sum(squares.values()) ** 0.5
    for bound in loop.objective.terms:
        share = squares[bound.term.name] ** 0.5 / total if total and bound.term.name in squares else 1.0
        if share < _SILENT_SHARE:
            notes.append(
                f"{bound.term.label} was {share:.2%} of the terms' gradient over the phase: the student learned next to "
                "nothing from it; raise its weight, or remove it"
            )
    return tuple(notes)


def _describe_best(loop: TrainingLoop) -> Iterator[str]:
    best = loop.validator.best if loop.validator else None
    if best is not None and best.since:
        yield (
            f"{loop.config.validation.watch if loop.config.validation else ''} was best after step {best.step:,} "
            f"({best.value:.4g}), whose weights the student has; training ended after step {loop.step:,} of "
            f"{loop.phase.steps:,}"
        )


def _on_policy_notes(counts: Mapping[str, int] | None) -> Iterator[str]:
    if counts is not None:
        length = counts["tokens"] / max(1, counts["documents"])
        yield (
            f"on_policy: {counts['sampled']} of {counts['batches']} micro-batches on-policy, "
            f"{length:.1f} tokens per document on average; {counts['cut'] / max(1, counts['documents']):.0%} of the texts "
            "were cut at their limit"
        )
