"""A recorded row as text, and the format of recordings and samples for a terminal of 100 columns.

A sample has at each position the text so far, the label, and the teacher's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

import kdtool
from kdtool_torch import exact_logits

from kdtool_data.command.recording import Recording

if TYPE_CHECKING:
    from torch import Tensor

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


WIDTH = 100
_NAMES = 10
_TEXT, _LABEL, _TOKEN = 24, 12, 14
_LEFT = 8 + 2 + _TEXT + 2 + _LABEL + 1 + 5 + 2
_FORMS = {
    "logits": "probabilities, from logits",
    "sampled": "probabilities as shares of samples",
    "top-k": "probabilities of the kept tokens",
}


def recording_lines(recording: Recording) -> Iterator[str]:
    """Yield the properties of a recording, one per line."""
    yield f"{recording.signals}: {'complete' if recording.whole else 'incomplete; kdtool run resumes it'}"
    layers = f", layers {', '.join(map(str, recording.layers))}" if recording.layers else ""
    sparse = not {"sampled", "top-k"}.isdisjoint(recording.kinds)
    yield from _labelled_lines("folder", recording.folder)
    yield from _labelled_lines("cache", _component(recording.cache))
    yield from _labelled_lines("teacher", _component(recording.teacher))
    yield from _labelled_lines(
        "holds",
        f"{', '.join(recording.kinds)}{layers}{f', at temperature {recording.temperature:g}' if sparse else ''}",
    )
    yield from _labelled_lines("rows", _rows(recording))
    if recording.tokens is not None:
        size = f", {recording.bytes_a_token:,.1f} bytes each" if recording.bytes_a_token is not None else ""
        yield from _labelled_lines("tokens", f"{recording.tokens:,} with a label{size}")
    yield from _labelled_lines("files", f"{recording.files}, {recording.bytes:,} bytes; {_state(recording)}")


def sample_lines(sample: Sample | None) -> Iterator[str]:
    """Yield a table of the sample's positions."""
    if sample is None:
        yield "only hidden states are recorded, so a row has no tokens to show"
        return
    yield f"row {sample.row} ({_cut(_escape(sample.key), 40)}), {len(sample.positions)} of {sample.labels} labels"
    yield f"{_FORMS[sample.form]}, at temperature {sample.temperature:g}"
    yield f"{'position':>8}  {'text so far':<{_TEXT}}  {'label':<{_LABEL}} {'p':>5}  the teacher's tokens"
    for position in sample.positions:
        yield from _position_lines(position)


def _position_lines(position: Position) -> Iterator[str]:
    label = position.label
    share = "-" if label.probability is None else f"{label.probability:.3f}"
    cells = [f"{_quote(token.text, _TOKEN)} {token.probability:.3f}" for token in position.tokens]
    cells += [f"rest {position.rest:.3f}"] if position.rest >= 0.0005 else []
    first, *others = _fill_lines(cells, WIDTH - _LEFT) or [""]
    text = _cut(_escape(position.before), _TEXT, end=False)
    yield f"{position.position:>8}  {text:<{_TEXT}}  {_quote(label.text, _LABEL):<{_LABEL}} {share:>5}  {first}".rstrip()
    for line in others:
        yield " " * _LEFT + line


def _fill_lines(cells: Sequence[str], width: int) -> list[str]:
    """Fill lines with cells; cells are never broken, since their spaces belong to tokens."""
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + 2 + len(cell) <= width:
            lines[-1] += f"  {cell}"
        else:
            lines.append(cell)
    return lines


def _quote(text: str, width: int) -> str:
    return f"'{_cut(_escape(text), width - 2)}'"


def _escape(text: str) -> str:
    """Escape line ends, tabs and control characters."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _cut(text: str, width: int, *, end: bool = True) -> str:
    """Truncate a text at its end, or at its beginning."""
    if len(text) <= width:
        return text
    return f"{text[: width - 1]}…" if end else f"…{text[1 - width :]}"


def _labelled_lines(name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(wrap(text, WIDTH - _NAMES, break_long_words=False, break_on_hyphens=False)):
        yield f"  {'' if number else name:<{_NAMES - 2}}{line}"


def _component(record: kdtool.ComponentRecord) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in record.config.items() if value is not None)
    origin = f" ({record.distribution} {record.version})" if record.distribution else ""
    return f"{record.use}{origin}{': ' if settings else ''}{settings}"


def _rows(recording: Recording) -> str:
    every = f"{recording.rows:,} of {recording.row_length:,} tokens"
    if recording.recorded is None:
        return f"{every}; only the cache knows how many are recorded"
    if recording.recorded == recording.rows:
        return f"{every}, all recorded"
    missing = f"{recording.rows - recording.recorded:,} missing: {recording.recorded} to {recording.rows - 1}"
    return f"{every}, {recording.recorded:,} recorded; {missing}"


def _state(recording: Recording) -> str:
    if recording.damaged:
        return f"{len(recording.damaged)} damaged"
    what = "hashes" if recording.checked == "hashes" else "sizes"
    return (
        f"all {what} match"
        if recording.whole or recording.recorded is not None
        else "no manifest to check them against"
    )
