"""Errors for gradients that are not finite: training diverged, or a loss or the backbone computes wrongly.

Called by the loop, which remembers the largest weight at the beginning of a phase.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import kdtool
import torch

from kdtool_trainer_standard._sharding import share_of_rank
from kdtool_trainer_standard._terms import BoundTerm

__all__ = ["explain_gradient", "largest_weight"]

_GREW = 10.0
"""Growth of the largest weight above which a student has diverged: no useful phase changes it that much."""


def largest_weight(student: torch.nn.Module) -> float:
    """Return the largest absolute weight that learns, of those on this rank."""
    learning = (share_of_rank(p.detach()) for p in student.parameters() if p.requires_grad)
    largest = [torch.linalg.vector_norm(share, math.inf) for share in learning if share.numel()]
    return float(torch.stack(largest).max()) if largest else 0.0


def explain_gradient(
    norm: float, step: int, before: float | None, now: float, terms: Iterable[BoundTerm]
) -> kdtool.KdtoolError:
    """Return the error for a gradient that is not finite.

    Args:
        norm: the gradient's.
        step: from 1.
        before: the largest weight at the beginning of the phase; None if it is not known.
        now: the largest weight.
        terms: of the phase.
    """
    if before is not None and not now <= _GREW * before:
        return kdtool.UsageError(
            f"training diverged at step {step}: the gradient's norm is {norm}, and the largest "
            f"weight has grown from {before:.3g} to {now:.3g}. A lower learning_rate, a longer warmup or gradient_clip: "
            "1.0 is the usual remedy; the last checkpoint is kept"
        )
    suspects = [bound.term.label for bound in terms if not bound.per_token]
    origin = f"one of the sequence losses ({', '.join(suspects)}) or the backbone" if suspects else "the backbone"
    return kdtool.PluginError(
        f"the gradient's norm is {norm} at step {step}, though every term's value is finite: it "
        f"comes from {origin}. Look for square roots and norms at zero, and lower learning_rate if the loss has risen; "
        "training stopped, the last checkpoint is kept"
    )
