"""Logits for numbers that are reported: in float32, regardless of the model's precision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["exact_head", "exact_logits"]


def exact_head(head: kdtool.Head) -> kdtool.Head:
    """Return the head in float32, without gradient and padding; it shares its weight with one that is float32 already."""
    bias = None if head.bias is None else head.bias.detach()[: head.vocabulary].float()
    return replace(head, weight=head.weight.detach()[: head.vocabulary].float(), bias=bias)


def exact_logits(head: kdtool.Head, states: Tensor) -> Tensor:
    """Return logits [N, V] of final states [N, H], projected in float32 also under autocast, without the head's gradient.

    Call it on chunks, with an `exact_head`: any other head is copied to float32 in each call.

    Bfloat16 keeps 8 bits of a logit: rounded to it, a log-likelihood is off by some hundredths of a nat for each token.
    """
    import torch

    with torch.autocast(states.device.type, enabled=False):
        return exact_head(head).logits(states)
