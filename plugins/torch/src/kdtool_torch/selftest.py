"""Self-tests of student, signals and losses in about a second before the first step, so that errors are not silent.

- The student's logits match its head, and vocabularies agree.
- Two passes differ by dropout.
- Every loss satisfies its contract on a real chunk; its analytic gradient is autograd's.
- Losses do not depend on chunking.

Nothing here repeats what authors of losses test with `kdtool_testing`, unless it depends on the device or its
precision. Called once per phase, with the first batch; only its fullest row is used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import kdtool
import torch
from torch import Tensor

from kdtool_torch.head import HeadWork, SequenceHead, head_loss
from kdtool_torch.inputs import MicroBatch, imitated_by_row, select_rows
from kdtool_torch.model import self_check
from kdtool_torch.numerics import autocast_to, require_finite
from kdtool_torch.terms import BoundTerm, Chunk, ChunkLoss, without_dropout

_CHUNKED = 1e-2
"""Relative difference that chunks may make: a teacher's half-precision logits are rounded differently in other shapes."""
_ANALYTIC = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Relative difference that an analytic gradient may make: autograd's is rounded to the logits' precision."""


class Tested(Protocol):
    """The part of an `Objective` that is tested."""

    run: kdtool.RunInfo
    language_model: kdtool.LanguageModel
    terms: tuple[BoundTerm, ...]
    forward_passes: int
    sizes: Any

    def set_step(self, step: int, progress: float, factors: Sequence[float]) -> None: ...
    def run_student(self, batch: kdtool.Batch) -> tuple[kdtool.ModelOutputs, ...]: ...
    def sequence_head(self) -> SequenceHead: ...
    def view(
        self, bound: BoundTerm, micro_batch: MicroBatch, outputs: tuple[kdtool.ModelOutputs, ...], head: SequenceHead
    ) -> kdtool.StepView: ...
    def head_work(self, micro_batch: MicroBatch, outputs: Sequence[kdtool.ModelOutputs]) -> HeadWork: ...


def self_test(module: Tested, micro_batch: MicroBatch) -> Chunk:
    """Check student, teachers and losses against each other, on rows with labels.

    Returns:
        A real chunk, of the size that the token losses will be called with.

    Raises:
        UsageError: teacher and student do not fit together, two passes are asked of a student without dropout, or this
            precision is too narrow for the student.
        PluginError: a plugin returned something that its contract does not allow; its name is given.
    """
    autocast = partial(autocast_to, module.sizes.dtype, micro_batch.batch.input_ids.device)
    if hasattr(module.language_model.model, "get_input_embeddings"):
        with autocast():  # frozen weights are held in the dtype of products, others in float32
            self_check(module.language_model)
    _check_teachers(module, micro_batch.signals)
    run = module.run
    module.set_step(1, 0.0, [1.0] * len(module.terms))
    counts = imitated_by_row(micro_batch.batch)
    fullest = select_rows([counts.index(max(counts))], micro_batch)
    with autocast():
        outputs = _passes(module, fullest.batch)
        for output in outputs:
            require_finite(output.last.detach(), "the student")
        head = module.sequence_head()
        for bound in module.terms:
            if not bound.per_token:
                view = module.view(bound, fullest, outputs, head)
                hook = run.component(bound.term.name, kdtool.SequenceLoss).kdtool_sequence_loss
                _expect_result(run, bound, hook(view), view)
    work = module.head_work(fullest, outputs)
    work.hidden = [states.detach() for states in work.hidden]
    chunk = work.chunk(slice(0, work.loss_chunk_size))
    for projected in chunk.logits:
        require_finite(projected, "the student")
    if work.loss.terms:
        _check_weightings(run, work)
        for index, bound in enumerate(work.loss.terms):
            _check_token_loss(run, index, bound, work.loss, chunk)
        _check_chunking(work)
    return chunk


def _passes(module: Tested, batch: kdtool.Batch) -> tuple[kdtool.ModelOutputs, ...]:
    """Run the student as training will, and detect dropout by its use of random numbers.

    Equal states do not prove that dropout is missing: an untrained adapter adds zero, with or without dropout.
    """
    before = _generators(batch.input_ids.device)
    outputs = module.run_student(batch)
    if module.forward_passes > 1 and all(map(torch.equal, before, _generators(batch.input_ids.device))):
        raise without_dropout([bound.term for bound in module.terms])
    return outputs


def _generators(device: torch.device) -> list[Tensor]:
    """Return the states of the generators that dropout draws from."""
    states = [torch.get_rng_state()]
    return states if device.type == "cpu" else [*states, torch.get_device_module(device).get_rng_state()]


def _check_teachers(module: Tested, signals: Mapping[str, kdtool.Signal]) -> None:
    for bound in module.terms:
        for teacher in bound.term.teachers if bound.form != "none" else ():
            _check_teacher(module.language_model, bound, teacher, signals[teacher])


def _check_teacher(student: kdtool.LanguageModel, bound: BoundTerm, teacher: str, signal: kdtool.Signal) -> None:
    require_finite(signal, teacher)
    expected = student.head.vocabulary if bound.term.shared is None else bound.term.shared
    vocabulary = signal.lazy.head.vocabulary if signal.lazy is not None else expected
    if vocabulary != expected:
        raise kdtool.UsageError(
            f"{bound.term.label}: {teacher} has logits of {vocabulary} tokens, but the student's are compared over "
            f"{expected}; use a teacher with the student's vocabulary"
        )
    if signal.sparse is not None and int(signal.sparse.ids.max()) >= expected:
        raise kdtool.PluginError(
            f"the signal of {teacher} names token {int(signal.sparse.ids.max())}; the student's vocabulary ends at "
            f"{expected - 1}"
        )


def _check_weightings(run: kdtool.RunInfo, work: HeadWork) -> None:
    """Refuse weights below zero, and a whole row without weight, which only columns of the row may cause."""
    for name in run.implementing("kdtool_token_weight"):
        weighting, hook = run.component(name, kdtool.Weighting), "kdtool_token_weight"
        for start in range(0, len(work.hidden[0]), work.loss_chunk_size):
            chunk = work.chunk(slice(start, start + work.loss_chunk_size))
            answer = weighting.kdtool_token_weight(work.loss.seen_by_weightings(chunk))
            weights = _expect_values(run, name, hook, answer, (len(chunk.labels),))
            if bool((weights < 0).any()):
                raise kdtool.PluginError(
                    f"{_who(run, name)}: {hook} returned {float(weights.min()):.3g}; expected: weights from 0, since a "
                    "negative one would teach the opposite"
                )
            if weighting.columns or bool(weights.any()):
                break
        else:
            raise kdtool.PluginError(
                f"{_who(run, name)}: {hook} returned 0 at all {len(work.hidden[0]):,} positions of a first row; expected: a "
                "weight above 0 somewhere, or nothing would be learned"
            )


def _check_token_loss(run: kdtool.RunInfo, index: int, bound: BoundTerm, loss: ChunkLoss, chunk: Chunk) -> None:
    _, gradients = _value_and_gradients(run, index, bound, loss, chunk)
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise kdtool.PluginError(
            f"{_who(run, bound.term.name)}: the gradient of kdtool_token_loss is not finite on a first chunk, though its "
            "values are (look for square roots and powers at 0)"
        )
    if bound.gradient is not None:
        _check_analytic_gradient(run, index, bound, loss, chunk)


def _value_and_gradients(
    run: kdtool.RunInfo, index: int, bound: BoundTerm, loss: ChunkLoss, chunk: Chunk
) -> tuple[Tensor, tuple[Tensor, ...]]:
    hook = run.component(bound.term.name, kdtool.TokenLoss).kdtool_token_loss
    leaves = tuple(of_pass.detach().clone().requires_grad_() for of_pass in chunk.logits[: bound.term.forward_passes])
    with torch.enable_grad():
        answer = hook(loss.seen_by(index, dataclasses.replace(chunk, logits=leaves)))
        values = _expect_values(run, bound.term.name, "kdtool_token_loss", answer, (len(chunk.labels),))
        by_leaves: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if values.requires_grad:
            by_leaves = _differentiate(run, bound.term.name, values, leaves)
    gradients = []
    for gradient, name in zip(by_leaves, ("student_logits", "second_logits"), strict=False):
        if gradient is None:
            raise kdtool.PluginError(
                f"{_who(run, bound.term.name)}: the values that kdtool_token_loss returned do not depend on chunk.{name} "
                "(detached, or computed from .data, .item() or numpy); nothing could be learned from it"
            )
        gradients.append(gradient)
    return values.detach(), tuple(gradients)


def _differentiate(
    run: kdtool.RunInfo, name: str, values: Tensor, leaves: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(values.sum(), leaves, allow_unused=True)
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise kdtool.PluginError(
            f"{_who(run, name)} changed a tensor in place that its gradient needs ({str(error).partition('. Hint')[0]}); "
            "write `x = x * 2` instead of `x.mul_(2)` or `x *= 2`, or change a clone"
        ) from error


def _check_analytic_gradient(run: kdtool.RunInfo, index: int, bound: BoundTerm, loss: ChunkLoss, chunk: Chunk) -> None:
    """Compare with autograd, at logits of other positions: if student and teacher are close, only rounding is left."""
    chunk = dataclasses.replace(chunk, logits=tuple(of_pass.roll(1, 0) for of_pass in chunk.logits))
    values, (expected,) = _value_and_gradients(run, index, bound, loss, chunk)
    seen, logits = loss.seen_by(index, chunk), chunk.logits[0]
    before = logits.clone()
    with torch.no_grad():
        answer = run.component(bound.term.name, kdtool.TokenLoss).kdtool_token_gradient(seen)
    if answer is None:
        return
    name, hook = bound.term.name, "kdtool_token_gradient"
    analytic_values, gradient = _expect_values(run, name, hook, answer[0], (len(chunk.labels),)), answer[1]
    _expect_values(run, name, hook, gradient, tuple(seen.student_logits.shape))
    sizes = expected.float().norm(dim=-1)
    # a position whose gradient nearly vanishes is the difference of large numbers: rounding there is measured by the others
    apart_by = (gradient - expected[:, : gradient.shape[1]].float()).norm(dim=-1)
    away = apart_by / (sizes.clamp(min=float(sizes.mean())) + 1e-3)
    apart = (analytic_values - values).abs() / values.abs().clamp(min=1.0)
    allowed = _ANALYTIC[logits.dtype]
    if not max(float(away.max()), float(apart.max())) <= allowed:
        raise kdtool.PluginError(
            f"{_who(run, name)}: {hook} differs from autograd on kdtool_token_loss: on a first chunk gradients "
            f"differ by {float(away.max()):.2g}, values by {float(apart.max()):.2g} (relative; allowed {allowed:g})"
        )
    gradient.zero_()
    if not torch.equal(before, logits):
        raise kdtool.PluginError(
            f"{_who(run, name)}: {hook} changed chunk.student_logits, or returned a gradient in their memory; expected: a "
            "separate tensor"
        )


def _check_chunking(work: HeadWork) -> None:
    """Compare the chunked head with all positions in one call, both in float32."""
    rows, bias = slice(0, 48), work.head.bias
    head = dataclasses.replace(
        work.head, weight=work.head.weight.detach().float(), bias=None if bias is None else bias.detach()
    )
    states = [of_pass[rows].float().requires_grad_() for of_pass in work.hidden]
    whole = dataclasses.replace(work, hidden=states, head=head, dtype=torch.float32, buffers={})
    chunk = whole.chunk(rows)
    gradients, (sums, _) = work.loss(chunk)
    small = dataclasses.replace(whole, rows=chunk, head_chunk_size=20, loss_chunk_size=7)
    chunked = torch.autograd.grad(head_loss(small, torch.ones((), device=sums.device)), states)
    expected = [
        whole.projection.before_cap(gradient, of_pass) @ whole.projection.weight
        for gradient, of_pass in zip(gradients, chunk.logits, strict=True)
    ]
    away = max(
        float((of_pass - other).norm() / (other.norm() + 1e-3))
        for of_pass, other in zip(chunked, expected, strict=True)
    )
    apart = float(((small.totals[0] - sums).abs() / sums.abs().clamp(min=1.0)).max())
    if not max(away, apart) <= _CHUNKED:
        names = ", ".join(bound.term.label for bound in work.loss.terms)
        raise kdtool.PluginError(
            f"the losses ({names}) or token weights depend on how positions are cut into chunks: gradients differ by "
            f"{away:.2g}, values by {apart:.2g} (relative; allowed {_CHUNKED:g}). Each position's value may depend only on "
            "that position"
        )


def _expect_values(run: kdtool.RunInfo, name: str, hook: str, values: object, shape: tuple[int, ...]) -> Tensor:
    expected = f"expected: a tensor of shape {list(shape)} and dtype float32, one value for each position"
    if not isinstance(values, Tensor):
        raise kdtool.PluginError(f"{_who(run, name)}: {hook} returned {type(values).__name__}; {expected}")
    if tuple(values.shape) != shape or values.dtype != torch.float32:
        raise kdtool.PluginError(
            f"{_who(run, name)}: {hook} returned a tensor of shape {list(values.shape)} and dtype "
            f"{str(values.dtype).removeprefix('torch.')}; {expected}"
        )
    if not bool(values.isfinite().all()):
        bad = values.detach()[~values.isfinite()]
        raise kdtool.PluginError(
            f"{_who(run, name)}: {hook} returned {float(bad[0])} at {len(bad)} of {values.numel()} positions of a first "
            "chunk; expected: finite values for any finite logits (look for log(0) and 0/0)"
        )
    return values


def _expect_result(run: kdtool.RunInfo, bound: BoundTerm, result: object, view: kdtool.StepView) -> None:
    assert isinstance(result, kdtool.PerToken | kdtool.PerSequence)  # noqa: S101 - the hook allows nothing else
    per_token = isinstance(result, kdtool.PerToken)
    count = view.student.last.shape[0] if per_token else view.batch.input_ids.shape[0]
    _expect_values(run, bound.term.name, "kdtool_sequence_loss", result.values, (count,))


def _who(run: kdtool.RunInfo, name: str) -> str:
    return str(run.hook.owner(name) or f"'{name}'")
