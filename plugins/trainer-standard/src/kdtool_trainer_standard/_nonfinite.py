"""Attributes non-finite values to the student, the dtype, or one loss.

Called by the loop, and through it by the distillation module, when a step's values or gradients are not finite, before any
weight has changed; and by the self-test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import kdtool
import torch
from torch import Tensor

from kdtool_trainer_standard._head import HeadWork
from kdtool_trainer_standard._terms import BoundTerm

__all__ = ["check_initial_finite", "raise_for_token_losses", "raise_if_student_diverged", "raise_nonfinite_gradient",
           "raise_nonfinite_loss"]  # fmt: skip

_NARROW = "dtype: float32, or bfloat16 where there is one, since float16 ends at 65,504"


def raise_if_student_diverged(outputs: Tensor, step: int, dtype: torch.dtype, what: str = "final states") -> None:
    """Raise if the student's own outputs, computed in `dtype`, are not finite: under autocast their own dtype may be wider.

    Raises:
        UsageError: training has run away; no loss is at fault.
    """
    if not bool(outputs.isfinite().all()):
        narrow = f"Take {_NARROW}; if that does not help, a" if dtype == torch.float16 else "A"
        raise kdtool.UsageError(
            f"training diverged at step {step}: the student's {what} are not finite. {narrow} lower learning_rate, a longer "
            "warmup or gradient_clip: 1.0 is the usual remedy; the last checkpoint is kept"
        )


def check_initial_finite(outputs: Tensor, dtype: torch.dtype, what: str = "final states") -> None:
    """Raise if outputs of the student, computed in `dtype`, are not finite before the first step.

    Raises:
        UsageError: this precision cannot hold what the student computes, or its weights are damaged.
    """
    if not bool(outputs.isfinite().all()):
        remedy = f"take {_NARROW}" if dtype == torch.float16 else "its weights are damaged or too large; take others"
        raise kdtool.UsageError(f"the student's {what} are not finite before the first step: {remedy}")


def raise_for_token_losses(run: kdtool.RunInfo, work: HeadWork, step: int) -> NoReturn:
    """Look through all positions, term by term, and raise with the name of the first culprit.

    Raises:
        UsageError: the student's states or logits are not finite themselves.
        PluginError: a loss gave a value or a gradient that is not finite.
    """
    for of_pass in work.hidden:
        raise_if_student_diverged(of_pass.detach(), step, work.dtype)
    count, size = len(work.hidden[0]), work.loss_chunk_size
    with torch.no_grad(), torch.autocast(work.hidden[0].device.type, enabled=False):
        for start in range(0, count, size):
            chunk = work.chunk(slice(start, start + size))
            for of_pass in chunk.logits:
                raise_if_student_diverged(of_pass, step, work.dtype, "logits")
            for index, bound in enumerate(work.loss.terms):
                gradients, values = work.loss.of_term(index, chunk)
                for tensor, did in ((values, "returned"), *((each, "has a gradient of") for each in gradients)):
                    if not bool(tensor.isfinite().all()):
                        raise_nonfinite_loss(run, bound.term, step, did, float(tensor[~tensor.isfinite()][0]))
    raise kdtool.UsageError(
        f"the loss is not finite at step {step}, though each single term is: the sum overflows {work.dtype}. "
        "Lower weights, or dtype: float32, are the remedy; the last checkpoint is kept"
    )


def raise_nonfinite_gradient(norm: float, step: int, terms: Iterable[BoundTerm]) -> NoReturn:
    """Raise a `UsageError` for a gradient that is not finite, though every term's value is."""
    suspects = [*(bound.term.label for bound in terms if not bound.per_token), "the backbone"]
    raise kdtool.UsageError(
        f"the gradient's norm is {norm} at step {step}, though every term's value is finite. Either training diverged: a "
        "lower learning_rate, a longer warmup or gradient_clip: 1.0 is the usual remedy. Or the gradient of "
        f"{' or '.join(suspects)} is wrong: look for square roots and norms at zero. The last checkpoint is kept"
    )


def raise_nonfinite_loss(run: kdtool.RunInfo, term: kdtool.LossTerm, step: int, did: str, value: float) -> NoReturn:
    """Raise a `PluginError` that names the term."""
    raise kdtool.PluginError(
        f"{run.hook.owner(term.name) or f'loss {term.name!r}'} {did} {value} at step {step}, from states that are finite. "
        "Expected: a finite value and gradient for any finite logits (look for log(0), 0/0 and square roots of 0); "
        "training stopped, the last checkpoint is kept"
    )
