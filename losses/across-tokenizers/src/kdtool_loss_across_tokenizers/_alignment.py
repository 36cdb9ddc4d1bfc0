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
from kdtool_torch import NO_LABEL, compute_on_host
from torch import Tensor

from kdtool_loss_across_tokenizers._span_likelihoods import meeting_points


class Token(NamedTuple):
    """A token that a labelled position predicts: the position's number, and the bytes of its document from start to end."""

    number: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Spans:
    """One side's S spans, concatenated: the numbers of their positions, and how many positions each span has, [S]."""

    numbers: Tensor
    lengths: Tensor

    @property
    def first(self) -> Tensor:
        """The number of each span's first position, [S]."""
        return self.numbers[self.lengths.cumsum(0) - self.lengths]

    @property
    def last(self) -> Tensor:
        """The number of each span's last position, [S]."""
        return self.numbers[self.lengths.cumsum(0) - 1]


class Ends(NamedTuple):
    """The ends of S spans: the positions that predict the token after each, and how spans follow each other.

    `student` and `teacher` [S] are numbers of positions; `known` [S] is False where one of them lacks label and state.
    `final` [S] is True for an end of text, after which nothing comes. `begins` [S] is True where a span does not directly
    follow the one before it.
    """

    student: Tensor
    teacher: Tensor
    known: Tensor
    final: Tensor
    begins: Tensor


def meetings(view: kdtool.StepView) -> tuple[Tensor, Tensor]:
    """Return the numbers of student and teacher positions that have read the same bytes of a document, [M] each."""
    if view.teacher_batch is None:
        every = _every(view)
        return every, every
    return compute_on_host(_meetings, *_columns(view.batch, "student"), *_columns(view.teacher_batch, "teacher"))


def spans(view: kdtool.StepView) -> tuple[Spans, Spans]:
    """Return the student's and the teacher's spans.

    A span is a shortest stretch of bytes that begins and ends with a token on both sides. All its tokens are labelled on
    both sides.
    """
    if view.teacher_batch is None:
        every = _every(view)
        single_positions = Spans(every, torch.ones_like(every))
        return single_positions, single_positions
    return compute_on_host(_find_spans, *_columns(view.batch, "student"), *_columns(view.teacher_batch, "teacher"))


def ends_of_spans(of_both: tuple[Spans, Spans], batch: kdtool.Batch, teacher_batch: kdtool.Batch) -> Ends:
    """Return the ends of the spans of student and teacher that `spans` returned for these batches."""
    labels, _, start, end = _columns(batch, "student")
    parts = [part for side in of_both for part in (side.numbers, side.lengths)]
    return compute_on_host(_find_ends, labels, teacher_batch.labels, start, end, *parts)


def of_spans(values: Tensor, spans: Spans) -> Tensor:
    """Return the sum over each span, [S], of the values of the positions in all spans, concatenated."""
    # without unsafe=True, its checks fail if there are no spans
    return torch.segment_reduce(values, "sum", lengths=spans.lengths, unsafe=True)


def _every(view: kdtool.StepView) -> Tensor:
    return torch.arange(len(view.student.last), device=view.batch.labels.device)


def _columns(batch: kdtool.Batch, side: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return labels, documents, and the bytes at which tokens begin and end, [B, L] each."""
    missing = [name for name in ("byte_start", "byte_end") if name not in batch.columns]
    if missing:
        raise kdtool.PluginError(
            f"the {side}'s rows lack the columns {' and '.join(missing)}, which match tokens of two tokenizers by their "
            "bytes; the rows that kdtool makes for teachers with other tokens have them"
        )
    return batch.labels, batch.document, batch.columns["byte_start"], batch.columns["byte_end"]


def _meetings(*columns: Tensor) -> tuple[Tensor, Tensor]:
    pairs = [
        (student[i].number, teacher[j].number)
        for student, teacher in _documents(*columns)
        for i, j in meeting_points([token.start for token in student], [token.start for token in teacher])
    ]
    return _numbers([student for student, _ in pairs]), _numbers([teacher for _, teacher in pairs])


def _find_spans(*columns: Tensor) -> tuple[Spans, Spans]:
    pairs = [pair for documents in _documents(*columns) for pair in _spans(*documents)]
    student, teacher = ([pair[side] for pair in pairs] for side in (0, 1))
    return _join_spans(student), _join_spans(teacher)


def _find_ends(labels: Tensor, teacher_labels: Tensor, start: Tensor, end: Tensor, *parts: Tensor) -> Ends:
    own, other = Spans(*parts[:2]), Spans(*parts[2:])
    student, student_known, student_begins = _after(own, labels)
    teacher, teacher_known, teacher_begins = _after(other, teacher_labels)
    final = (start == end)[labels != NO_LABEL][own.last]
    return Ends(student, teacher, student_known & teacher_known, final, student_begins | teacher_begins)


def _after(spans: Spans, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers of the positions after each span, whether they have a label, and which spans do not continue."""
    place = (labels.flatten() != NO_LABEL).nonzero().flatten()
    place = torch.cat([place, place.new_tensor([-1])])  # after the last label there is none
    after = spans.last + 1
    known = place[after] == place[spans.last] + 1
    begins = torch.ones_like(known)
    begins[1:] = (spans.first[1:] != after[:-1]) | ~known[:-1]
    return after.where(known, 0), known, begins


def _documents(*columns: Tensor) -> Iterator[tuple[list[Token], list[Token]]]:
    """Yield both sides' tokens of each shared document; if both sides end it, the end tokens follow as a separate pair."""
    of_teacher = _labelled_tokens(*columns[4:])
    for key, student in _labelled_tokens(*columns[:4]).items():
        if teacher := of_teacher.get(key):
            yield _with_bytes(student), _with_bytes(teacher)
            # ends of text have no bytes: they correspond only to each other
            if not _with_bytes([student[-1], teacher[-1]]):
                yield student[-1:], teacher[-1:]


def _labelled_tokens(labels: Tensor, *columns: Tensor) -> dict[tuple[int, int], list[Token]]:
    """Return the labelled tokens by row and document."""
    labelled = labels != NO_LABEL
    rows = labelled.nonzero()[:, 0].tolist()
    tokens: dict[tuple[int, int], list[Token]] = {}
    for number, (row, document, start, end) in enumerate(
        zip(rows, *(column[labelled].tolist() for column in columns), strict=True)
    ):
        tokens.setdefault((row, document), []).append(Token(number, start, end))
    return tokens


def _with_bytes(tokens: Sequence[Token]) -> list[Token]:
    return [token for token in tokens if token.start < token.end]


def _spans(student: Sequence[Token], teacher: Sequence[Token]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the numbers of the student's and the teacher's tokens of each span of a document."""
    begins = list(meeting_points([token.start for token in student], [token.start for token in teacher]))
    done = 0
    for i, j in meeting_points([token.end for token in student], [token.end for token in teacher]):
        latest = done
        while latest < len(begins) and begins[latest][0] <= i:
            latest += 1
        if latest > done:
            first, second = begins[latest - 1]
            student_span, teacher_span = student[first : i + 1], teacher[second : j + 1]
            if _whole(student_span) and _whole(teacher_span):
                yield [token.number for token in student_span], [token.number for token in teacher_span]
        done = latest


def _whole(tokens: Sequence[Token]) -> bool:
    """Return whether every token between them has a label."""
    return all(before.end == after.start for before, after in pairwise(tokens))


def _join_spans(parts: Sequence[Sequence[int]]) -> Spans:
    return Spans(_numbers([number for part in parts for number in part]), _numbers([len(part) for part in parts]))


def _numbers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
