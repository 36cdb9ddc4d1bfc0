"""Pairs of labelled positions of student and teacher: places where both have read the same, and spans of bytes.

Positions go by their number among the labelled ones of a batch, row-major, as final states do. A token of no bytes (a
special one) has no counterpart in other tokenizers, except the one that ends a document on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import kdtool
import torch
from torch import Tensor

from kdtool_loss_across_tokenizers._meeting_points import meeting_points

__all__ = ["Spans", "meetings", "of_spans", "spans"]


class Token(NamedTuple):
    """A token that a labelled position predicts: the position's number, and the bytes of its document from start to end."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Spans:
    """One side's S spans, one behind the other: the numbers of their positions, and how many each has, [S]."""

    numbers: Tensor
    lengths: Tensor

    @property
    def last(self) -> Tensor:
        """The number of each span's last position, [S]."""
        return self.numbers[self.lengths.cumsum(0) - 1]


def meetings(view: kdtool.StepView) -> tuple[Tensor, Tensor]:
    """Return the numbers of own and teacher's positions that have read the same bytes of a document, [M] each."""
    if view.teacher_batch is None:
        every = _every(view)
        return every, every
    pairs = [
        (own[i].number, other[j].number)
        for own, other in _documents(view.batch, view.teacher_batch)
        for i, j in meeting_points([token.start for token in own], [token.start for token in other])
    ]
    device = view.batch.labels.device
    return _numbers([own for own, _ in pairs], device), _numbers([other for _, other in pairs], device)


def spans(view: kdtool.StepView) -> tuple[Spans, Spans]:
    """Return own and teacher's spans: the shortest stretches of bytes that begin and end with a token on both sides.

    Every token of a span has a label on both sides.
    """
    if view.teacher_batch is None:
        every = _every(view)
        alone = Spans(every, torch.ones_like(every))
        return alone, alone
    found = [pair for documents in _documents(view.batch, view.teacher_batch) for pair in _spans(*documents)]
    device = view.batch.labels.device
    return _join_spans([own for own, _ in found], device), _join_spans([other for _, other in found], device)


def of_spans(values: Tensor, spans: Spans) -> Tensor:
    """Return the sums over spans, [S], of the values of their positions, one behind the other."""
    # its checks fail where there is no span
    return torch.segment_reduce(values, "sum", lengths=spans.lengths, unsafe=True)


def _every(view: kdtool.StepView) -> Tensor:
    return torch.arange(len(view.student.last), device=view.batch.labels.device)


def _documents(batch: kdtool.Batch, other: kdtool.Batch) -> Iterator[tuple[list[Token], list[Token]]]:
    """Yield the tokens of each document that both sides have; where both end it, that end is one of its own."""
    mine, theirs = _labelled_tokens(batch, "student"), _labelled_tokens(other, "teacher")
    for key, own in mine.items():
        if told := theirs.get(key):
            yield _with_bytes(own), _with_bytes(told)
            if not _with_bytes([own[-1], told[-1]]):
                yield own[-1:], told[-1:]


def _labelled_tokens(batch: kdtool.Batch, whose: str) -> dict[tuple[int, int], list[Token]]:
    """Return the labelled tokens by row and document."""
    missing = [name for name in ("byte_start", "byte_end") if name not in batch.columns]
    if missing:
        raise kdtool.PluginError(
            f"the {whose}'s rows lack the columns {' and '.join(missing)}, by which tokens of two tokenizers are found to "
            "stand for the same bytes; the rows that kdtool makes for teachers with other tokens have them"
        )
    asked = batch.labels != -100
    columns = (batch.document, batch.columns["byte_start"], batch.columns["byte_end"])
    rows = asked.nonzero()[:, 0].tolist()
    found: dict[tuple[int, int], list[Token]] = {}
    for number, (row, document, start, end) in enumerate(
        zip(rows, *(column[asked].tolist() for column in columns), strict=True)
    ):
        found.setdefault((row, document), []).append(Token(number, start, end))
    return found


def _with_bytes(tokens: Sequence[Token]) -> list[Token]:
    return [token for token in tokens if token.start < token.end]


def _spans(own: Sequence[Token], other: Sequence[Token]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the numbers of own and other tokens of each span of a document."""
    begins = list(meeting_points([token.start for token in own], [token.start for token in other]))
    done = 0
    for i, j in meeting_points([token.end for token in own], [token.end for token in other]):
        latest = done
        while latest < len(begins) and begins[latest][0] <= i:
            latest += 1
        if latest > done:
            first, second = begins[latest - 1]
            mine, theirs = own[first : i + 1], other[second : j + 1]
            if _whole(mine) and _whole(theirs):
                yield [token.number for token in mine], [token.number for token in theirs]
        done = latest


def _whole(tokens: Sequence[Token]) -> bool:
    """Return whether every token between them has a label."""
    return all(before.end == after.start for before, after in pairwise(tokens))


def _join_spans(parts: Sequence[Sequence[int]], device: torch.device) -> Spans:
    numbers = [number for part in parts for number in part]
    return Spans(_numbers(numbers, device), _numbers([len(part) for part in parts], device))


def _numbers(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)
