"""Spans merged until the teacher may end a word there (debiasing of approximate likelihood matching)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from kdtool_torch import Side, at_least_float32, in_chunks

if TYPE_CHECKING:
    import kdtool
    from torch import Tensor

__all__ = ["boundary_likelihoods", "boundary_mask", "merge"]

_SPACE = (b" ", b"\t", b"\n", b"\r")


@lru_cache(maxsize=4)
def boundary_mask(tokenizer: kdtool.Tokenizer, device: torch.device) -> Tensor:
    """Return which tokens end the word before them, [V] bool: those that begin with white space, and special tokens."""
    pieces = tokenizer.pieces(range(tokenizer.vocabulary))
    return torch.tensor([not piece or piece.startswith(_SPACE) for piece in pieces], device=device)


def boundary_likelihoods(side: Side, numbers: Tensor, mask: Tensor) -> Tensor:
    """Return log P(the next token is in `mask`) at these of the labelled positions, [S], in nats."""

    def of_tokens(part: slice) -> Tensor:
        logits = at_least_float32(side.logits(numbers[part]))
        inside = logits.masked_fill(~mask[: logits.shape[1]], -torch.inf).logsumexp(-1)
        return (inside - logits.logsumexp(-1)).clamp(max=0)

    return in_chunks(of_tokens, len(numbers), side.head.vocabulary, side.states.device)


def merge(values: Tensor, begins: Tensor, closes: Tensor) -> Tensor:
    """Return at each span that closes the sum of `values` since the one before it that did, [S]; 0 elsewhere.

    Args:
        values: [S] in the order of the text.
        begins: [S] bool, spans at which the text before them has nothing to do with them: nothing is merged across.
        closes: [S] bool.
    """
    starts = begins.clone()
    starts[1:] |= closes[:-1]
    group = starts.cumsum(0) - 1
    sums = torch.zeros_like(values).index_add(0, group, values)
    return sums[group].where(closes, 0)
