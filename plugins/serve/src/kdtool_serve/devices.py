"""Devices that improve completions at a cursor: their settings, and how they shape an answer.

`units` ends an answer with its line or block.

The command imports this module to build its options, so it imports neither a server nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import fmean

import kdtool


@dataclass(frozen=True)
class Devices:
    """Devices that improve completions at a cursor; docs/benchmarks/serving.md measures each.

    `healing` chooses the last token before the cursor again, and `units` ends an answer with its line or block.
    """

    healing: bool = True
    units: bool = True


def parse_shares(given: Sequence[str], offered: Sequence[str]) -> dict[str, float]:
    """Return the share of completions by model in options such as "control=0.5".

    Raises:
        UsageError: a model is unknown or the default; or shares are not numbers from 0 to 1 together.
    """
    shares: dict[str, float] = {}
    for option in given:
        name, _, share = option.partition("=")
        if name not in offered[1:]:
            others = ", ".join(offered[1:]) or "none"
            raise kdtool.UsageError(f"--share {option}: expected a model besides {offered[0]} ({others}), as NAME=0.5")
        try:
            shares[name] = float(share)
        except ValueError:
            raise kdtool.UsageError(f"--share {option}: {share!r} is not a number; expected one from 0 to 1") from None
    if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1:
        raise kdtool.UsageError(
            f"--share {' '.join(given)}: expected shares from 0 to 1, at most 1 together; reduce them"
        )
    return shares


def end_where(
    pieces: Iterator[kdtool.TextPiece], find_end: Callable[[str, bool], int | None], safe_length: Callable[[str], int]
) -> Iterator[kdtool.TextPiece]:
    """Yield the pieces of an answer up to its end; text that may still be cut is held back.

    Args:
        pieces: the answer.
        find_end: returns how much to keep of the text so far, None if it continues; True if no more text follows.
        safe_length: returns the length of the text so far that cannot be cut any more.
    """
    text, shown = "", 0
    with closing(pieces):  # type: ignore[type-var]  # generators, which can be closed
        for piece in pieces:
            if piece.finish == "refused":
                yield piece
                return
            text += piece.text
            end = find_end(text, piece.finish is not None)
            finish = piece.finish if end is None else "stop"
            if end is None:
                end = len(text) if finish else safe_length(text)
            kept = max(end, shown)
            yield replace(piece, text=text[shown:kept], finish=finish)
            if finish:
                return
            shown = kept


def end_at_unit(pieces: Iterator[kdtool.TextPiece], before: str, after: str) -> Iterator[kdtool.TextPiece]:
    """Yield the pieces of an answer between two texts up to the end of its unit.

    If more text follows in the cursor's line, the answer ends with that line. Otherwise it ends before a line that is
    indented less than the cursor's.
    """
    line = before.rpartition("\n")[2]
    indent = len(line) - len(line.lstrip())
    in_line = bool(after.partition("\n")[0].strip())
    quotes = next((string[1] for string in _STRING.finditer(before) if not string[2]), "")

    def find_end(text: str, is_whole: bool) -> int | None:
        if in_line:
            return next(_line_ends(text, quotes), None)
        return find_outdent(text, indent, quotes, is_whole=is_whole)

    return end_where(pieces, find_end, lambda text: len(_OPEN_LINE.sub("", text).rstrip()))


def find_outdent(text: str, indent: int, quotes: str = "", *, is_whole: bool = False) -> int | None:
    """Return where the first line begins that is indented less; the rest of the cursor's line does not count.

    Lines in a string and C's directives do not count either. `quotes` are those that the text before left open, `is_whole`:
    no more text follows.
    """
    for end in _line_ends(text, quotes) if indent else ():
        line, newline, _ = text[end + 1 :].partition("\n")
        is_open = not (newline or is_whole) and line.startswith("#")
        if line.strip() and len(line) - len(line.lstrip()) < indent and not is_open and not _DIRECTIVE.match(line):
            return len(text[:end].rstrip())
    return None


def _line_ends(text: str, quotes: str) -> Iterator[int]:
    """Yield the line ends of a text that are not in a triple-quoted string which it begins; `quotes` end one before it."""
    begin = text.find(quotes) + len(quotes) if quotes in text else len(text)
    strings = [found.span() for found in _STRING.finditer(text, begin)]
    for found in re.finditer("\n", text):
        if not any(start < found.start() < end for start, end in strings):
            yield found.start()


_STRING = re.compile(r"""(\"{3}|'{3}).*?(?:(\1)|\Z)""", re.DOTALL)
_DIRECTIVE = re.compile(r"#(if|ifdef|ifndef|elif|else|endif|define|undef|include|pragma|error|line)\b")
_OPEN_LINE = re.compile(r"\n#[^\n]*\Z")
"""A last line that may become a directive."""


def likelihood(logprobs: Sequence[kdtool.TokenLogprob]) -> float:
    """Return the mean log-probability per token; that of an empty answer is −∞."""
    return fmean(token.logprob for token in logprobs) if logprobs else float("-inf")
