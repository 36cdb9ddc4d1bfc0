"""One phase from start to end: binding, self-tests, the loop, final notes.

Called by `StandardTrainer.kdtool_train`, on every rank. Transforms are the engine's: the student comes in as it trains.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import kdtool
import torch
import transformers
from kdtool_torch import NO_LABEL, collate, isolated_rng, pick_device
from torch import nn
from torch.distributed.distributed_c10d import _set_pg_timeout

from kdtool_trainer_standard import _checkpoints, _history
from kdtool_trainer_standard._chunk import ChunkLoss
from kdtool_trainer_standard._compiling import compiled_or_eager
from kdtool_trainer_standard._config import StandardTrainerConfig
from kdtool_trainer_standard._frozen import frozen_weights_held
from kdtool_trainer_standard._history import HISTORY
from kdtool_trainer_standard._loop import TrainingLoop
from kdtool_trainer_standard._loss_mask import loss_labels
from kdtool_trainer_standard._machine import (
    chosen_dtype,
    chunk_sizes,
    preserved_accelerate_state,
    tuned_malloc,
)
from kdtool_trainer_standard._module import DistillationModule, Sizes
from kdtool_trainer_standard._on_policy import OnPolicySampler
from kdtool_trainer_standard._order import RowsInOrder
from kdtool_trainer_standard._progress import Progress
from kdtool_trainer_standard._resumable import find_resume_point
from kdtool_trainer_standard._selftest import self_test
from kdtool_trainer_standard._stopping import deferred_stop_signals
from kdtool_trainer_standard._teacher_signals import TeacherSignals
from kdtool_trainer_standard._terms import bind_terms, learns_on_policy, plain_tensors
from kdtool_trainer_standard._validation import Validator

__all__ = ["train_phase"]

_SILENT_SHARE = 0.01
"""A term below this share of the terms' gradient over a whole phase gets a note."""
_WHILE_VALIDATING = timedelta(days=1)
"""Time that other ranks wait for rank 0, which may ask for and run thousands of programs."""
_CLOSE_TO_TEACHER = 0.1
"""Nats: below this bfloat16 logits blur a divergence's gradient by a tenth and more."""


def train_phase(
    config: StandardTrainerConfig, run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel
) -> kdtool.Trained:
    """Train `student` in place and return what was done; see `kdtool.Trainer.kdtool_train`."""
    if not len(phase.rows):
        raise kdtool.UsageError(f"phase {phase.name!r} has no rows to learn from; check corpus, filters and row length")
    phase.checkpoints.mkdir(parents=True, exist_ok=True)
    with isolated_rng(run.seed, run.say), preserved_accelerate_state(), tuned_malloc(), _quiet_transformers():
        args = _arguments(config, run, phase)
        dtype = chosen_dtype(config.dtype, args.device)
        newest, before = find_resume_point(run, phase, dtype)
        _ready(student, args.device)
        with frozen_weights_held(student.model, dtype):
            loop = _prepare(config, run, phase, student, args, before)
            _resume_and_train(loop, newest)
            if run.rank == 0:
                loop.take_best()
            if loop.sharding is not None:
                loop.sharding.undo()
    return kdtool.Trained(
        steps=loop.state.global_step,
        tokens=loop.progress.tokens,
        seconds=loop.progress.seconds,
        history=phase.checkpoints / HISTORY,
        dtype=loop.progress.dtype,
        notes=_notes(loop),
    )


def _prepare(
    config: StandardTrainerConfig,
    run: kdtool.RunInfo,
    phase: kdtool.Phase,
    student: kdtool.LanguageModel,
    args: transformers.TrainingArguments,
    before: Progress | None,
) -> TrainingLoop:
    device: torch.device = args.device
    batch = collate(_select_rows(phase, config.batch, run.seed), device)
    sampler = _sampler(config, run, phase, student, device)
    if sampler is not None:
        sampler.try_out(batch)
        batch = sampler.mark_as_corpus(batch)
    with torch.no_grad():
        teacher_batches, signals = TeacherSignals(run, phase, chosen_dtype(config.dtype, device))(batch)
    signals = {name: plain_tensors(signal) for name, signal in signals.items()}
    terms = bind_terms(run, phase, signals)
    weightings = run.bound("kdtool_token_weight")
    loss = ChunkLoss([bound for bound in terms if bound.per_token], [weightings[name] for name in weightings])
    module = DistillationModule(
        run,
        student,
        terms,
        loss,
        _loss_modules(run, phase, student),
        _sizes(config, run, args, student),
        phase.student_request,
    )
    module.to(device)
    logits, rows = self_test(run, module, batch, signals, teacher_batches)
    if loss.terms:
        labels = loss_labels(batch.labels, batch.columns)
        to_come = phase.steps * config.accumulation * int((labels != NO_LABEL).sum())
        compiled_or_eager(loss, config.compile, logits, rows, to_come, run, None if before is None else before.compiled)
    dtype = module.sizes.dtype
    validator = Validator(config.validation, run, phase, student, dtype) if config.validation else None
    return TrainingLoop(config, run, phase, module, args, sampler, validator)


def _sampler(
    config: StandardTrainerConfig,
    run: kdtool.RunInfo,
    phase: kdtool.Phase,
    student: kdtool.LanguageModel,
    device: torch.device,
) -> OnPolicySampler | None:
    """Return the on-policy sampler if it is set and a loss learns from its text: a control's losses may not."""
    if config.on_policy is None or not any(map(learns_on_policy, phase.terms)):
        return None
    if phase.teacher_rows:
        raise kdtool.UsageError(
            f"on_policy: {next(iter(phase.teacher_rows))} does not read the student's tokens, so it cannot be asked about "
            "text that the student writes; take a student with its tokenizer, or leave on_policy out"
        )
    return OnPolicySampler(config.on_policy, run, student, chosen_dtype(config.dtype, device))


def _select_rows(phase: kdtool.Phase, count: int, seed: int) -> list[kdtool.Row]:
    """Return the first rows, in the order of training, that have something to learn from: at most `count`."""
    in_order = RowsInOrder(phase.rows, len(phase.rows), seed)
    rows: list[kdtool.Row] = []
    for index in range(len(in_order)):
        row = in_order[index]
        if bool((collate([row]).labels != NO_LABEL).any()):
            rows.append(row)
        if len(rows) == count:
            break
    if not rows:
        raise kdtool.UsageError(f"no row of phase {phase.name!r} has a labelled token: there is nothing to learn from")
    return rows


def _ready(student: kdtool.LanguageModel, device: torch.device) -> None:
    """Move the student to its device; weights that learn are float32, and autocast computes in less."""
    student.model.to(device)
    student.model.train()
    for parameter in student.model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def _arguments(
    config: StandardTrainerConfig, run: kdtool.RunInfo, phase: kdtool.Phase
) -> transformers.TrainingArguments:
    device = pick_device()
    dtype = chosen_dtype(config.dtype, device)
    args = transformers.TrainingArguments(
        output_dir=str(phase.checkpoints),
        max_steps=phase.steps,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        max_grad_norm=config.gradient_clip,
        optim="adamw_torch_fused",
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=device.type == "cpu",
        ddp_backend="gloo" if device.type == "cpu" and run.world > 1 else None,
        ddp_find_unused_parameters=False,
        average_tokens_across_devices=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type == "cuda",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # the default would hide a NaN
        save_strategy="no",  # the loop decides
        report_to=[],
        disable_tqdm=True,
        seed=run.seed,
    )
    args._n_gpu = 1  # else Trainer wraps the module in DataParallel on a machine with several
    if args.world_size != run.world:
        raise kdtool.UsageError(f"{run.world} processes are expected, but torch.distributed has {args.world_size}")
    if run.world > 1:  # args.ddp_timeout counts on GPUs alone, and for a process's first phase, which makes the group
        _set_pg_timeout(_WHILE_VALIDATING)
    return args


def _sizes(
    config: StandardTrainerConfig,
    run: kdtool.RunInfo,
    args: transformers.TrainingArguments,
    student: kdtool.LanguageModel,
) -> Sizes:
    head_chunk_size, loss_chunk_size = chunk_sizes(student.head.vocabulary, args.device)
    return Sizes(
        dtype=chosen_dtype(config.dtype, args.device),
        head_chunk_size=config.head_chunk_size or head_chunk_size,
        loss_chunk_size=config.loss_chunk_size or loss_chunk_size,
        rows_per_step=config.batch * config.accumulation * run.world,
    )


def _loss_modules(run: kdtool.RunInfo, phase: kdtool.Phase, student: kdtool.LanguageModel) -> dict[str, nn.Module]:
    facts = {}
    for term in phase.terms:
        if term.name in run.implementing("kdtool_modules") and term.teacher is not None:
            facts[term.name] = run.component(term.teacher, kdtool.Teacher).kdtool_describe(run)
            if facts[term.name] is None:
                raise kdtool.PluginError(
                    f"{term.teacher} does not describe itself, which {term.name} needs for its modules"
                )
    with isolated_rng(run.seed):
        modules = {
            name: run.component(name, kdtool.SequenceLoss).kdtool_modules(student.facts, teacher)
            for name, teacher in facts.items()
            if teacher
        }
    return {name: module for name, module in modules.items() if module is not None}


def _resume_and_train(loop: TrainingLoop, newest: Path | None) -> None:
    run = loop.run
    done = 0 if newest is None else _checkpoints.step_of(newest)
    if run.rank == 0:
        history = loop.phase.checkpoints / HISTORY
        if done:
            run.say(f"phase {loop.phase.name!r} resumes at step {done} of {loop.phase.steps}")
        elif history.is_file():
            run.say(f"phase {loop.phase.name!r} starts again: it was interrupted before its first checkpoint")
        _history.restore(history, newest)
        kdtool.commit(loop.phase.checkpoints, history, growing=True)  # its presence shows that steps were made
    # All have rank 0's seed until here, and would drop the same of their rows; one that goes on has its own.
    if run.rank > 0:
        torch.manual_seed(random.Random(f"{run.seed} {run.rank}").getrandbits(63))
    try:
        with deferred_stop_signals(loop.stop):
            loop.train(resume_from_checkpoint=None if newest is None else str(newest))
    except KeyboardInterrupt:
        run.say(_describe_interruption(loop))
        raise


def _describe_interruption(loop: TrainingLoop) -> str:
    kept = _checkpoints.all_of(loop.phase.checkpoints)
    then = (
        f"resumes at step {_checkpoints.step_of(kept[-1])}" if kept else "starts again, since no checkpoint was written"
    )
    return (
        f"phase {loop.phase.name!r} was interrupted at step {loop.state.global_step} of {loop.phase.steps}; it {then}"
    )


def _notes(loop: TrainingLoop) -> tuple[str, ...]:
    progress, module = loop.progress, loop.module
    notes = list(_on_policy_notes(progress.on_policy))
    if loop.config.sharding == "full" and loop.sharding is None:
        notes.append(
            "sharding: full had no effect, because there was only one process (docs/several-gpus.md explains how to start "
            "several)"
        )
    if progress.skipped:
        notes.append(
            f"{progress.skipped} of {loop.phase.steps} steps changed nothing: their gradients overflowed float16, and the "
            "scale of the loss was halved"
        )
    notes += _describe_best(loop)
    squares = progress.squared_norms or {}
    total = sum(squares.values()) ** 0.5
    for bound in module.terms:
        share = squares[bound.term.name] ** 0.5 / total if total and bound.term.name in squares else 1.0
        if share < _SILENT_SHARE:
            notes.append(
                f"{bound.term.label} was {share:.2%} of the terms' gradient over the phase: the student learned next to "
                "nothing from it; raise its weight, or remove it"
            )
        value = (progress.last_values or {}).get(bound.term.name)
        half = module.sizes.dtype != torch.float32
        if bound.per_token and bound.term.divergence and half and value is not None and value < _CLOSE_TO_TEACHER:
            notes.append(
                f"{bound.term.label} fell to {value:.3f} nats, at which rounding in {progress.dtype} blurs its gradient; "
                "set dtype: float32 to train further"
            )
    return tuple(notes)


def _describe_best(loop: TrainingLoop) -> Iterator[str]:
    best = loop.validator.best if loop.validator else None
    if best is not None and best.since:
        yield (
            f"{loop.config.validation.watch if loop.config.validation else ''} was best after step {best.step:,} "
            f"({best.value:.4g}), whose weights the student has; training ended after step {loop.state.global_step:,} of "
            f"{loop.phase.steps:,}"
        )


def _on_policy_notes(counts: Mapping[str, int] | None) -> Iterator[str]:
    if counts is not None:
        length = counts["tokens"] / max(1, counts["documents"])
        yield (
            f"on_policy: {counts['sampled']} of {counts['batches']} micro-batches were on-policy, "
            f"{length:.1f} tokens per document on average"
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Suppress transformers' own messages about training, since trackers report it."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
