"""Every loss of the repository as a plain formula over full logits, maps and states, for float64; none of its own code.

Probabilities instead of their logarithms, sums over whole matrices instead of blocks. Each returns one value a labelled
position, [N], at the default settings but for temperature 2 where a loss has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import kdtool
import torch
from torch import Tensor, nn

TEMPERATURE = 2.0


@dataclass(frozen=True)
class Compared:
    """Inputs of losses in float64: `student`, `second` and `teacher` are logits [N, V]; `own` and `other` show all else."""

    batch: kdtool.Batch
    student: Tensor
    second: Tensor
    teacher: Tensor
    labels: Tensor
    own: Any
    other: Any
    pairs: Sequence[tuple[int, int]]
    told: kdtool.SparseTokens | None = None


def softmax(logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    powers = ((logits - logits.amax(-1, keepdim=True)) / temperature).exp()
    return powers / powers.sum(-1, keepdim=True)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


def ce(all_: Compared) -> Tensor:
    """Cross-entropy of the labels."""
    return -softmax(all_.student, 1.0)[torch.arange(len(all_.labels)), all_.labels].log()


def forward_kl(all_: Compared) -> Tensor:
    q = softmax(all_.student)
    if all_.told is None:
        return kl(softmax(all_.teacher), q)
    shares = torch.zeros_like(q)
    for place in range(3):  # the fourth is a gap
        column = all_.told.ids[:, place].long()
        shares[torch.arange(len(q)), column] += all_.told.weights[:, place].double()
    if all_.told.form == "sampled":
        return -(shares * q.log()).sum(-1)
    rest, others = 1 - shares.sum(-1), (q * (shares == 0)).sum(-1)
    inside = (shares * (shares.clamp(min=1e-9) / q).log()).sum(-1)
    return inside + rest * (rest / others).log()


def reverse_kl(all_: Compared) -> Tensor:
    return kl(softmax(all_.student), softmax(all_.teacher))


def jsd(all_: Compared) -> Tensor:
    p, q = softmax(all_.teacher), softmax(all_.student)
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


def skew_kl(all_: Compared) -> Tensor:
    p, q = softmax(all_.teacher), softmax(all_.student)
    return kl(p, 0.1 * p + 0.9 * q)


def skew_reverse_kl(all_: Compared) -> Tensor:
    p, q = softmax(all_.teacher), softmax(all_.student)
    return kl(q, 0.9 * p + 0.1 * q)


def adaptive_kl(all_: Compared) -> Tensor:
    p, q = softmax(all_.teacher), softmax(all_.student)
    shares = []
    for mine, theirs in zip(q.tolist(), p.tolist(), strict=True):
        order, covered, in_head = sorted(range(len(theirs)), key=lambda token: -theirs[token]), 0.0, set()
        for rank, token in enumerate(order):
            covered += theirs[token]
            in_head |= {token} if rank == 0 or covered <= 0.5 else set()
        gaps = [abs(a - b) for a, b in zip(mine, theirs, strict=True)]
        shares.append(sum(gaps[token] for token in in_head) / sum(gaps))
    share = torch.tensor(shares, dtype=torch.float64)
    return share * kl(p, q) + (1 - share) * kl(q, p)


def tvd(all_: Compared) -> Tensor:
    return (softmax(all_.teacher) - softmax(all_.student)).abs().sum(-1) / 2


def consistency(all_: Compared) -> Tensor:
    first, second = softmax(all_.student), softmax(all_.second)
    return (kl(first, second) + kl(second, first)) / 2


def hidden(all_: Compared) -> Tensor:
    ((mine, theirs),) = all_.pairs
    asked = all_.batch.labels != -100
    own, other = all_.own.states[mine][asked], all_.other.states[theirs][asked]
    torch.manual_seed(0)
    projector = nn.Linear(own.shape[-1], other.shape[-1], bias=False).double()  # as the trainer seeds it
    own, other = (states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt() for states in (projector(own), other))
    distance: Tensor = (own - other).square().mean(-1)
    return distance


def attention(all_: Compared) -> Tensor:
    ((mine, theirs),) = all_.pairs
    away = (all_.own.maps[mine] - all_.other.maps[theirs]).square().sum(-1).mean(1)  # both are 0 where nothing is seen
    distance: Tensor = away[all_.batch.labels != -100]
    return distance


def relations(all_: Compared) -> Tensor:
    ((mine, theirs),) = all_.pairs
    document, length = all_.batch.document, all_.batch.document.shape[1]
    seen = (document[:, :, None] == document[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()

    def of(states: Tensor) -> Tensor:
        parts = states.reshape(*states.shape[:-1], 2, -1).transpose(1, 2)
        scores = parts @ parts.transpose(-1, -2) / parts.shape[-1] ** 0.5
        return softmax(scores.masked_fill(~seen[:, None], -1e9), 1.0)

    total = torch.zeros((), dtype=torch.float64)
    for own, other in zip(all_.own.projections[mine], all_.other.projections[theirs], strict=True):
        p, q = of(other), of(own)
        total = total + torch.where(p > 0, p * (p / q.clamp(min=1e-300)).clamp(min=1e-300).log(), 0.0).sum(-1).mean(1)
    return total[all_.batch.labels != -100]


def uld(all_: Compared) -> Tensor:
    ours, theirs = (softmax(logits).sort(-1).values for logits in (all_.student, all_.teacher))
    return (ours - theirs).abs().sum(-1)


def span_likelihood(all_: Compared) -> Tensor:
    rows, least, tau = torch.arange(len(all_.labels)), torch.tensor(-1e-6, dtype=torch.float64).exp(), 100.0
    q, p = (softmax(logits, 1.0)[rows, all_.labels] * least for logits in (all_.student, all_.teacher))
    q, p = q ** (1 / tau), p ** (1 / tau)
    return tau * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())


def contrastive(all_: Compared) -> Tensor:
    own = all_.batch.columns["student_generated"][all_.batch.labels != -100] != 0
    return torch.where(own, skew_reverse_kl(all_), skew_kl(all_))


FORMULAS: dict[str, Callable[[Compared], Tensor]] = {
    "adaptive-kl": adaptive_kl,
    "attention": attention,
    "ce": ce,
    "consistency": consistency,
    "contrastive": contrastive,
    "forward-kl": forward_kl,
    "hidden": hidden,
    "jsd": jsd,
    "projected-kl": forward_kl,
    "relations": relations,
    "reverse-kl": reverse_kl,
    "skew-kl": skew_kl,
    "skew-reverse-kl": skew_reverse_kl,
    "span-likelihood": span_likelihood,
    "tvd": tvd,
    "uld": uld,
}
"""By the name of the entry point. Those across tokenizers are as they are where both sides read the same tokens."""

ELSEWHERE = {
    "preference": "compares whole answers to a prompt: losses/preference, and the trainer's tests of rejected text",
    "router-balance": "needs experts, and depends on how a step is cut: losses/ce, and test_experts.py",
}
"""Losses that these rows are not for, with what tests them."""
SHRINKS = {"tvd": 1, "uld": 1}
"""With which power of T the gradient of a softened loss shrinks; 2 for those that are not named."""
