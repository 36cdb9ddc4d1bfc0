"""Likelihoods of spans of text: where two tokenizers meet, the divergence of a span, and merged spans.

Spans are merged until the teacher may end a word there: the debiasing of approximate likelihood matching (ALM).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from kdtool_torch import Side, at_least_float32, in_chunks

if TYPE_CHECKING:
    import kdtool
    import torch
    from torch import Tensor


def meeting_points(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (i, j) for which first[i] equals second[j], in order, each index once; neither sequence may descend.

    Given two tokenizers' ends of tokens in one document, it yields the tokens that end together: from one pair to the next,
    both sides stand for the same bytes.
    """
    i = j = 0
    while i < len(first) and j < len(second):
        if first[i] == second[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif first[i] < second[j]:
            i += 1
        else:
            j += 1


LEAST = 1e-6
"""Nats subtracted from every span's log-likelihood, so that no logarithm is of 0, as in the authors' code."""
MOST = 1e30
"""Stands for −log 0."""


def span_divergence(student: Tensor, teacher: Tensor, temperature: float = 100.0) -> Tensor:
    """Return τ · [p̂·log(p̂ / q̂) + (1 − p̂)·log((1 − p̂) / (1 − q̂))], p̂ = p^(1/τ), q̂ = q^(1/τ).

    p and q are the probabilities that teacher and student give to the same span of text, so this compares two outcomes:
    the span comes, or something else does. It is the summand of the objective of Minixhofer et al. (ALM), arXiv 2503.20083,
    section 3, f(p̂ ‖ q̂) + f(1 − p̂ ‖ 1 − q̂), with f(a ‖ b) = a·log(a / b), the KL divergence. The factor τ is ours: it keeps
    the value from shrinking as 1/τ, so that τ changes what counts and not how much. τ → ∞ gives b − a + a·log(a / b) of
    the costs a = −log p and b = −log q. The derivative by log q is −(p̂ − q̂) / (1 − q̂).

    0 if and only if p = q (up to 1e-6 nats, subtracted from both log-likelihoods), else positive.

    Args:
        student: [S] log-likelihoods of spans: the sums of their tokens'.
        teacher: [S], of the same spans.
        temperature: τ > 0; the authors take 100. At 1 likely spans count most, and unlikely ones next to nothing.

    Returns:
        [S], in nats.
    """
    a, b = ((LEAST - side.clamp(min=-MOST, max=0)) / temperature for side in (teacher, student))
    comes, other = (-a).exp(), -(-a).expm1()
    return temperature * (comes * (b - a) + other * (other.log() - (-(-b).expm1()).log()))


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


def merge_spans(values: Tensor, begins: Tensor, closes: Tensor) -> Tensor:
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
