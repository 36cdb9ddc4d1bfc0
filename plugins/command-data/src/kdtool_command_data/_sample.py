"""Recall a row as text: at each position the text so far, the label, and the teacher's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import kdtool
from kdtool_torch import exact_logits

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Position", "Sample", "Token", "take_sample"]

TOP = 8
"""Number of the teacher's tokens shown per position."""
BEFORE = 12
"""Number of the document's tokens shown before a position."""


@dataclass(frozen=True)
class Token:
    """A token; `probability` is the teacher's, None if the cache did not keep it."""

    id: int
    text: str
    probability: float | None


@dataclass(frozen=True)
class Position:
    """A labelled position: the text up to it, the next token, and the teacher's tokens, likeliest first.

    `rest` is the total probability of all tokens outside `tokens`.
    """

    position: int
    before: str
    label: Token
    tokens: tuple[Token, ...]
    rest: float


@dataclass(frozen=True)
class Sample:
    """The first positions of a row; `labels` counts all labelled ones. Probabilities are at `temperature`."""

    row: int
    key: str
    labels: int
    form: Literal["logits", "sampled", "top-k"]
    temperature: float
    positions: tuple[Position, ...]


@dataclass(frozen=True)
class _Likeliest:
    """A signal's likeliest tokens at M positions [M, K], padded with -1, and the labels' probabilities [M]."""

    form: Literal["logits", "sampled", "top-k"]
    temperature: float
    ids: Tensor
    probabilities: Tensor
    of_labels: Tensor

    def tokens(self, number: int, label: int, words: Mapping[int, bytes]) -> tuple[Token, tuple[Token, ...], float]:
        """Return a position's label, the teacher's tokens, and the probability of all others."""
        of_label = float(self.of_labels[number])
        kept = of_label > 0 or self.form == "logits"
        pairs = zip(self.ids[number].tolist(), self.probabilities[number].tolist(), strict=True)
        likeliest = {token: share for token, share in pairs if token >= 0}
        return (
            Token(label, _text(words, [label]), of_label if kept else None),
            tuple(Token(token, _text(words, [token]), share) for token, share in likeliest.items()),
            max(0.0, 1 - sum(likeliest.values())),
        )


def take_sample(
    row: kdtool.Row, index: int, positions: int, tokenizer: kdtool.Tokenizer, source: kdtool.SignalSource
) -> Sample | None:
    """Recall a row and return its first `positions` labelled positions; None if only hidden states are recorded.

    Raises:
        StorageError: the row's file is damaged.
    """
    from kdtool_torch import NO_LABEL, collate

    batch = collate([row])
    labelled = (batch.labels[0] != NO_LABEL).nonzero()[:, 0]
    shown = labelled[:positions]
    labels = batch.labels[0, shown]
    teacher = _likeliest(source.signal(batch), labels)
    if teacher is None:
        return None
    before = [
        row.input_ids[offset - min(inside, BEFORE - 1) : offset + 1]
        for offset, inside in zip(shown.tolist(), batch.positions[0, shown].tolist(), strict=True)
    ]
    words = _words(tokenizer, {token for line in (*before, *teacher.ids.tolist(), labels.tolist()) for token in line})
    shown_positions = (
        Position(offset, _text(words, before[number]), *teacher.tokens(number, label, words))
        for number, (offset, label) in enumerate(zip(shown.tolist(), labels.tolist(), strict=True))
    )
    return Sample(index, row.key, len(labelled), teacher.form, teacher.temperature, tuple(shown_positions))


def _likeliest(signal: kdtool.Signal, labels: Tensor) -> _Likeliest | None:
    """Return a signal's likeliest tokens at the first positions, one per label."""
    lazy, sparse = signal.lazy, signal.sparse
    if sparse is not None:
        weights, order = sparse.weights[: len(labels)].sort(dim=-1, descending=True, stable=True)
        ids = sparse.ids[: len(labels)].gather(1, order)
        of_labels = weights.masked_fill(ids != labels[:, None], 0.0).sum(-1)
        return _Likeliest(sparse.form, sparse.temperature, ids[:, :TOP], weights[:, :TOP], of_labels)
    if lazy is not None:
        probabilities = exact_logits(lazy.head, lazy.hidden[: len(labels)]).softmax(-1)
        likeliest, ids = probabilities.topk(min(TOP, probabilities.shape[-1]))
        return _Likeliest("logits", 1.0, ids, likeliest, probabilities.gather(1, labels[:, None])[:, 0])
    return None


def _words(tokenizer: kdtool.Tokenizer, ids: Iterable[int]) -> dict[int, bytes]:
    """Return the bytes of each token; for special tokens their names."""
    known = [index for index in sorted(ids) if 0 <= index < tokenizer.vocabulary]
    names = tokenizer.tokens()
    try:
        # each twice, since the first token of a text may lose its space
        pieces: Sequence[bytes] = tokenizer.pieces([index for index in known for _ in range(2)])[1::2]
    except kdtool.UsageError:  # the tokenizer's bytes are unknown
        pieces = [b""] * len(known)
    return {index: piece or names[index].encode() for index, piece in zip(known, pieces, strict=True)}


def _text(words: Mapping[int, bytes], ids: Sequence[int]) -> str:
    pieces = [words.get(index, b"<%d>" % index) for index in ids]
    return b"".join(pieces).decode(errors="backslashreplace")
