"""Distance of a file from the student it was made of: by logits on the same tokens, as llama-perplexity compares models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import exp, isnan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import kdtool
import torch
from kdtool_torch import exact_head, exact_logits
from torch import Tensor

from kdtool_exporter_gguf._decoder import Decoder

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel

__all__ = ["Parity", "compare", "require_parity"]

_LARGEST = {
    "f32": 0.03, "f16": 0.03, "bf16": 0.05, "q8_0": 0.05, "q6_k": 0.1, "q5_k_m": 0.3, "q4_k_m": 0.5, "iq4_xs": 0.7,
    "q4_0": 1.0, "q3_k_m": 1.5, "q2_k": 4.0,
}  # fmt: skip
"""Largest mean KL divergence in nats, by type; README.md has the measurements they follow from."""
_BLOCK = 16
"""Rows that are compared at once: their logits and the values computed from them fit into the processor's cache."""


class Parity(NamedTuple):
    """KL divergence of a file from the student in nats (mean, 95 % and 99 %), over tokens of held-out text.

    `margin` is half the mean's 95 % interval over windows of text; NaN if there is one. `agreement` is the share of tokens
    with the same most likely next one; the perplexities are of the same tokens.
    """

    tokens: int
    mean: float
    margin: float
    p95: float
    p99: float
    agreement: float
    perplexity: float
    student: float
    seconds: float

    def __str__(self) -> str:
        margin = "" if isnan(self.margin) else f" ± {self.margin:.4f}"
        return (
            f"KL divergence {self.mean:.4f}{margin} nats (95 %: {self.p95:.4f}, 99 %: {self.p99:.4f}), "
            f"same most likely token {self.agreement:.1%}, perplexity {self.perplexity:.3f} (student {self.student:.3f}), "
            f"on {self.tokens:,} tokens of held-out text"
        )


def compare(
    student: TransformersModel, windows: Sequence[Sequence[int]], states: Sequence[Tensor], decoder: Decoder
) -> Parity:
    """Compare a file's logits with the student's.

    Args:
        student: the student in float32; only its head is used.
        windows: tokens, each window read by itself.
        states: the student's final states of each window.
        decoder: the opened file.
    """
    begun, head = time.monotonic(), exact_head(student.head)
    rows: list[Tensor] = []
    for window, state in zip(windows, states, strict=True):
        done = 0
        for chunk in decoder.logits(window[:-1]):
            end = done + len(chunk)
            logits = exact_logits(head, state[done:end])
            rows.append(_compare_rows(logits, torch.from_numpy(chunk), torch.tensor(window[done + 1 : end + 1])))
            done = end
    divergence, same, of_student, of_file = torch.cat(rows, 1).double()
    p95, p99 = divergence.quantile(torch.tensor([0.95, 0.99], dtype=torch.double)).tolist()
    return Parity(
        tokens=divergence.numel(),
        mean=float(divergence.mean()),
        margin=_margin_of_mean([window[0].double() for window in rows]),
        p95=p95,
        p99=p99,
        agreement=float(same.mean()),
        perplexity=exp(-float(of_file.mean())),
        student=exp(-float(of_student.mean())),
        seconds=time.monotonic() - begun,
    )


def require_parity(parity: Parity, mix: str, file: Path) -> None:
    """Refuse a file that is further from the student than its type explains.

    Raises:
        PluginError: the mean divergence is above the type's limit, or not a number.
    """
    if not parity.mean <= _LARGEST[mix]:
        raise kdtool.PluginError(
            f"gguf: {file.name} differs from the student: {parity}; expected a mean of {_LARGEST[mix]} at most in {mix}. "
            "Export with type: f32 to see whether the type or the file is at fault"
        )


def _margin_of_mean(windows: Sequence[Tensor]) -> float:
    """Return 1.96 standard errors of the mean over all values, by leaving out one window at a time (jackknife)."""
    sums = torch.stack([window.sum() for window in windows])
    counts = torch.tensor([len(window) for window in windows])
    means = (sums.sum() - sums) / (counts.sum() - counts)
    return 1.96 * sqrt((len(windows) - 1) * float(means.var(correction=0)))


def _compare_rows(student: Tensor, file: Tensor, targets: Tensor) -> Tensor:
    """Return [4, N]: the divergence of each row, 1 if the maxima are equal, and both log-likelihoods of the targets.

    Both logits are overwritten.
    """
    blocks = zip(*(torch.split(each, _BLOCK) for each in (student, file, targets)), strict=True)
    return torch.cat([_compare_block(*block) for block in blocks], 1)


def _compare_block(student: Tensor, file: Tensor, targets: Tensor) -> Tensor:
    """Compare a few rows, with p and q the probabilities of `student` and `file`, and a and b their logits.

    KL(p, q) = sum p (log p - log q) = sum p (a - b) - log sum exp a + log sum exp b.
    """
    highest, likeliest = student.max(1, keepdim=True)
    same = likeliest.squeeze(1) == file.argmax(1)
    student_target, file_target = (logits.gather(1, targets[:, None]).squeeze(1) for logits in (student, file))
    file_total = file.logsumexp(1)
    file = file[:, : student.shape[1]]  # beyond are rows that pad the vocabulary
    gaps = torch.sub(student, file, out=file)
    weights = student.sub_(highest).exp_()
    total = weights.sum(1)
    student_total = highest.squeeze(1) + total.log()
    divergence = torch.linalg.vecdot(weights, gaps) / total - student_total + file_total
    return torch.stack(
        [divergence.clamp(min=0), same.float(), student_target - student_total, file_target - file_total]
    )
