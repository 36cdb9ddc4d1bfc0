"""Texts cut into tokens in two ways, as a `StepView` with random models of both sides, and plain loops over them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import kdtool
import torch
from kdtool_torch import collate

WIDTHS, TOKENS = (5, 7), (11, 17)


class Greedy(kdtool.Tokenizer):
    """Longest pieces first; the last token ends a text, the one before it is special, too."""

    vocabulary = end_of_text = 0
    fingerprint = ""

    def __init__(self, *pieces: bytes) -> None:
        self.table = [*pieces, b"", b""]
        self.vocabulary, self.end_of_text, self.fingerprint = len(self.table), len(self.table) - 1, repr(pieces)

    def encode(self, text: str) -> list[int]:
        found, content = list[int](), text.encode()
        while content:
            piece = max((piece for piece in self.table if content.startswith(piece)), key=len)
            found.append(self.table.index(piece))  # the special token stands for a byte without a piece
            content = content[max(1, len(piece)) :]
        return found

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [self.table[token] for token in ids]


TOKENIZERS = (
    Greedy(b"a", b"b", b" ", b" a", b"ab", b"\n", b"ba", b"\xc3", b"\xa9"),
    Greedy(
        b"b", b"a", b" ", b"aa", b" ab", b"c", b"ab", b"\n", b"abb", b"\n\n", b"bb", b"\xc3\xa9", b"cc", b" b", b"bab"
    ),
)
"""The student's and the teacher's, of as many tokens as `TOKENS` says."""


@dataclass(frozen=True)
class Document:
    """One document as one tokenizer cuts it.

    `cuts` are the bytes after which tokens end, from 0 on: (0, 3, 5) are two tokens. `masked` numbers tokens without label;
    `marked` ones have a token of no bytes in front. `ended` says that a last token of no bytes ends it.
    """

    cuts: tuple[int, ...]
    masked: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()
    ended: bool = False

    def tokens(self) -> Iterator[tuple[int, int, bool]]:
        """Yield start, end and whether it has a label."""
        for number, (start, end) in enumerate(zip(self.cuts, self.cuts[1:], strict=False)):
            if number in self.marked:
                yield start, start, True
            yield start, end, number not in self.masked
        if self.ended:
            yield self.cuts[-1], self.cuts[-1], True


Text = Sequence[Sequence[Document]]
"""Rows of documents."""


def batch_of_text(text: Text, vocabulary: int, seed: int = 0) -> kdtool.Batch:
    """Return rows with random token ids."""
    generator = torch.Generator().manual_seed(seed)
    length = max(sum(len(list(document.tokens())) for document in row) for row in text) + 2
    rows = []
    for index, row in enumerate(text):
        tokens = [(*token, number) for number, document in enumerate(row) for token in document.tokens()]
        tokens += [(0, 0, False, -1)] * (length - len(tokens))
        starts, ends, labelled, document = (list(column) for column in zip(*tokens, strict=True))
        ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
        columns = {"byte_start": starts, "byte_end": ends}
        rows.append(kdtool.Row(f"row {index}", ids, labelled, document, columns))
    return collate(rows)


def head_of(width: int, vocabulary: int, seed: int, *, plain: bool = False) -> kdtool.Head:
    """Return a head with padding, bias, scale and cap, in float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocabulary + 3, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocabulary + 3, generator=generator, dtype=torch.float64)
    return kdtool.Head(weight, vocabulary) if plain else kdtool.Head(weight, vocabulary, bias, 0.7, 4.0)


def view_of(own: Text, other: Text | None = None, seed: int = 0, *, plain: bool = False) -> kdtool.StepView:
    """Return a step of both sides in float64; without `other` the teacher reads the student's tokens."""
    mine = batch_of_text(own, TOKENS[0], seed)
    theirs = None if other is None else batch_of_text(other, TOKENS[1], seed + 1)
    generator = torch.Generator().manual_seed(seed)
    count, told = (int((batch.labels != -100).sum()) for batch in (mine, theirs or mine))
    states = torch.randn(count, WIDTHS[0], generator=generator, dtype=torch.float64).requires_grad_()
    lazy = torch.randn(told, WIDTHS[1], generator=generator, dtype=torch.float64)
    head = head_of(WIDTHS[0], TOKENS[0], seed, plain=plain)
    head.weight.requires_grad_()
    teacher = head_of(WIDTHS[1], TOKENS[0 if other is None else 1], seed + 1, plain=plain)
    signal = kdtool.Signal("t", kdtool.LazyLogits(lazy, teacher))
    outputs = kdtool.ModelOutputs(states)
    return kdtool.StepView(mine, outputs, signal, torch.tensor(0.5), torch.tensor(3), theirs, head)


def values_of(loss: kdtool.SequenceLoss, view: kdtool.StepView) -> torch.Tensor:
    """Return the loss's values, [N]."""
    found: Any = loss.kdtool_sequence_loss(view)
    assert isinstance(found, kdtool.PerToken)
    return found.values


def probabilities(hidden: torch.Tensor, head: kdtool.Head, temperature: float = 1.0) -> list[list[float]]:
    """Return the distribution at each position, by plain loops."""
    weight, bias = head.weight.tolist(), [0.0] * len(head.weight) if head.bias is None else head.bias.tolist()
    found = []
    for state in hidden.tolist():
        logits = []
        for token in range(head.vocabulary):
            z = head.scale * (sum(w * h for w, h in zip(weight[token], state, strict=True)) + bias[token])
            logits.append(z if head.soft_cap is None else head.soft_cap * math.tanh(z / head.soft_cap))
        powers = [math.exp(z / temperature) for z in logits]
        found.append([power / sum(powers) for power in powers])
    return found


def labels_of(batch: kdtool.Batch) -> list[int]:
    """Return the labels of the labelled positions."""
    return [label for row in batch.labels.tolist() for label in row if label != -100]


def places(batch: kdtool.Batch) -> list[tuple[tuple[int, int], int, int]]:
    """Return row and document, start and end of each labelled token."""
    found = []
    for row, labels in enumerate(batch.labels.tolist()):
        for place, label in enumerate(labels):
            if label != -100:
                start, end = (int(batch.columns[name][row, place]) for name in ("byte_start", "byte_end"))
                found.append(((row, int(batch.document[row, place])), start, end))
    return found


def plain_divergence(q_log: float, p_log: float, tau: float) -> float:
    """Return the divergence of two log-likelihoods of a span."""
    p, q = math.exp((p_log - 1e-6) / tau), math.exp((q_log - 1e-6) / tau)
    unlikely = -math.expm1((p_log - 1e-6) / tau), -math.expm1((q_log - 1e-6) / tau)
    return tau * (p * (math.log(p) - math.log(q)) + unlikely[0] * math.log(unlikely[0] / unlikely[1]))


def after(batch: kdtool.Batch, number: int) -> int | None:
    """Return the number of the position right after a labelled one; None if it is not labelled."""
    places = [(row, at) for row, labels in enumerate(batch.labels.tolist()) for at, n in enumerate(labels) if n != -100]
    row, at = places[number]
    return number + 1 if (row, at + 1) in places else None


def ended(batch: kdtool.Batch, number: int) -> bool:
    """Return whether a labelled position predicts a token of no bytes."""
    _, start, end = places(batch)[number]
    return start == end


def same_reading(view: kdtool.StepView) -> list[tuple[int, int]]:
    """Return all pairs of positions that have read the same bytes, by trying all of them."""
    assert view.teacher_batch is not None
    own, other = places(view.batch), places(view.teacher_batch)
    found = []
    for i, (mine, start, end) in enumerate(own):
        for j, (theirs, begin, finish) in enumerate(other):
            both_texts = start < end and begin < finish
            both_ends = start == end and begin == finish and _ends(own, i) and _ends(other, j)
            if mine == theirs and start == begin and (both_texts or both_ends):
                found.append((i, j))
    return found


def shortest_spans(view: kdtool.StepView) -> list[tuple[list[int], list[int]]]:
    """Return all spans, by walking on from each place that both have read to the first end that both have."""
    assert view.teacher_batch is not None
    own, other = places(view.batch), places(view.teacher_batch)
    found = []
    for i, j in same_reading(view):
        if own[i][1] == own[i][2]:
            found.append(([i], [j]))
            continue
        mine, theirs = _walk(own, i), _walk(other, j)
        common = sorted(mine.keys() & theirs.keys())
        if common:
            found.append((mine[common[0]], theirs[common[0]]))
    return found


def _ends(tokens: list[tuple[tuple[int, int], int, int]], number: int) -> bool:
    return number + 1 == len(tokens) or tokens[number + 1][0] != tokens[number][0]


def _walk(tokens: list[tuple[tuple[int, int], int, int]], begin: int) -> dict[int, list[int]]:
    """Return by its end each stretch of labelled tokens that begins with `begin`; those of no bytes are left out."""
    key, _, end = tokens[begin]
    numbers, found = [begin], {end: [begin]}
    for number in range(begin + 1, len(tokens)):
        other, start, finish = tokens[number]
        if other != key:
            break
        if start == finish:
            continue
        if start != end:
            break
        numbers, end = [*numbers, number], finish
        found[end] = numbers
    return found
