"""Spans merged until the teacher may end a word there (debiasing of approximate likelihood matching)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from kdtool_torch import Side, at_least_float32, in_chunks

if TYPE_CHECKING:
    import kdtool
    import torch
    from torch import Tensor

__all__ = ["boundary_likelihoods", "boundary_mask", "merge"]

_SPACE = (b" ", b"\t", b"\n", b"\r")


@lru_cache(maxsize=4)
def boundary_mask(tokenizer: kdtool.Tokenizer, device: torch.device) -> Tensor:
    """Return which tokens end the word before them, [V] bool: those that begin with white space, and special tokens."""
    import torch

    pieces = tokenizer.pieces(range(tokenizer.vocabulary))
    return torch.tensor([not piece or piece.startswith(_SPACE) for piece in pieces], device=device)


def boundary_likelihoods(side: Side, numbers: Tensor, mask: Tensor) -> Tensor:
    """Return log P(the next token is in `mask`) at these of the labelled positions, [S], in nats."""

    def of_tokens(part: slice) -> Tensor:
        logits = at_least_float32(side.logits(numbers[part]))
        inside = logits.masked_fill(~mask, -math.inf).logsumexp(-1)
        return (inside - logits.logsumexp(-1)).clamp(max=0)

    return in_chunks(of_tokens, len(numbers), side.head.vocabulary, side.states.device)


def merge(values: Tensor, begins: Tensor, closes: Tensor) -> Tensor:
    """Return at each span the sum of `values` over the spans merged with it, [S].

    A merged span ends where `closes` is True, and before a span where `begins` is.

    Args:
        values: [S] in the order of the text.
        begins: [S] bool, spans that do not directly follow the one before them.
        closes: [S] bool.
    """
    starts = begins.clone()
    starts[1:] |= closes[:-1]
    group = starts.cumsum(0) - 1
    return values.new_zeros(len(values)).index_add(0, group, values)[group]
