"""Format a recording and a sample for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

import kdtool

from kdtool_command_data._recording import Recording
from kdtool_command_data._sample import Position, Sample, Token

__all__ = ["recording_lines", "sample_lines"]

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
    first, *others = _fill_lines([*map(_token, position.tokens), *_rest(position)], WIDTH - _LEFT) or [""]
    text = _cut(_escape(position.before), _TEXT, end=False)
    yield f"{position.position:>8}  {text:<{_TEXT}}  {_quote(label.text, _LABEL):<{_LABEL}} {share:>5}  {first}".rstrip()
    for line in others:
        yield " " * _LEFT + line


def _rest(position: Position) -> list[str]:
    return [f"rest {position.rest:.3f}"] if position.rest >= 0.0005 else []


def _token(token: Token) -> str:
    return f"{_quote(token.text, _TOKEN)} {token.probability:.3f}"


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
