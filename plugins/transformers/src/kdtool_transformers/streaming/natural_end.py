"""Natural end of a generated text whose model does not stop: it repeats itself, or the requested function is over."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from io import StringIO

import kdtool

REPEATED = "the text repeated itself"
FUNCTION_ENDED = "the definition ended"
_COPIES = 3
"""Copies of a passage in a row that count as repetition."""
_LEAST = 160
"""Characters that the copies have together. Modules of Python's standard library repeat 117 at most; their tests more."""
_LONGEST = 400
"""Characters of a passage whose repetition is noticed."""
_SHOWN = 16
"""Minimum characters of the second copy to keep, so that common short repetitions are not held back."""
_LITERAL = re.compile(r"(\b[rbfu]{1,2})?('[^'\n]{0,80}('|\Z)|\"[^\"\n]{0,80}(\"|\Z))|\b\d\w*", re.IGNORECASE)
"""A number, or a short string that may not be complete yet."""
_NAME = re.compile(r"[^\W\d]")
_DEFINITION = re.compile(r"(async\s+def|def|class)\s+\w+\s*[(\[:]")
_DEFINES = re.compile(r"^(@|(async\s+def|def|class)\s)", re.MULTILINE)
_NEXT_LINE = re.compile(r"^(?=[^\s#])", re.MULTILINE)


def end_naturally(pieces: Iterator[kdtool.TextPiece], request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
    """Yield the pieces of an answer up to its natural end; the last one has the finish "stop" and the reason.

    A text ends when a passage occurs at least three times in a row, once the copies have 160 characters; the text after the
    second copy is cut. Tables of literals may repeat. A text that continues a prompt whose last top-level statement is a
    Python function or class ends before the next top-level statement. Text that may still be cut is held back.
    """
    continues = not request.turns and request.suffix is None
    definition = _Definition(request.prompt) if continues and _DEFINES.search(request.prompt) else None
    text, shown = "", 0
    with closing(pieces):  # type: ignore[type-var]  # generators, which can be closed
        for piece in pieces:
            kept, reason = len(text) + len(piece.text), ""
            for character in piece.text:
                text += character
                if (end := _repetition(text)) is not None:
                    kept, reason = end, REPEATED
                    break
            if definition is not None and (end := definition.find_end(text)) is not None and end <= kept:
                kept, reason = end, FUNCTION_ENDED
            if not reason and piece.finish is None:
                kept = min(kept, _before_copies(text), len(text) if definition is None else _before_open_lines(text))
            kept = max(kept, shown)
            finish = "stop" if reason else piece.finish
            yield replace(piece, text=text[shown:kept], finish=finish, reason=reason or piece.reason)
            if finish:
                return
            shown = kept


def _repetition(text: str) -> int | None:
    """Return how much to keep of a text that ends in a passage repeated too often; None if it does not."""
    for start, period, repeated in _cycles(text, _LEAST // _COPIES):
        is_long = repeated >= max((_COPIES - 1) * period, _LEAST - period)
        if is_long and _has_name(text, start):
            return _end_of_second_copy(text, start, period)
    return None


def _has_name(text: str, start: int) -> bool:
    """Return whether a name follows `start`, rather than only numbers and short strings, as in tables."""
    line = text.rfind("\n", 0, start) + 1
    blanked = _LITERAL.sub(lambda literal: " " * len(literal[0]), text[line:])
    return bool(_NAME.search(blanked, start - line))


def _before_copies(text: str) -> int:
    """Return the length of a text without the third copy that it may end in."""
    cycles = _cycles(text, _SHOWN)
    ends = (_end_of_second_copy(text, start, period) for start, period, repeated in cycles if repeated >= period)
    return min(ends, default=len(text))


def _cycles(text: str, least: int) -> Iterator[tuple[int, int, int]]:
    """Yield start, period and number of repeated characters, `least` or more, of each passage whose copies end a text."""
    at = len(text) - least
    tail, first = text[at:], max(0, at - _LONGEST)
    while at > 0 and (at := text.rfind(tail, first, at + least - 1)) >= 0:
        start, period = at, len(text) - least - at
        while start > 0 and text[start - 1] == text[start - 1 + period]:
            start -= 1
        yield start, period, len(text) - start - period


def _end_of_second_copy(text: str, start: int, period: int) -> int:
    end = start + period + max(period, _SHOWN)
    if "\n" not in text[start : start + period]:
        return end
    line_end = text.find("\n", end)
    return len(text) if line_end < 0 else line_end


def _before_open_lines(text: str) -> int:
    """Return the length of a text without blank lines and comments at its end, which may belong to the next statement."""
    lines = text.split("\n")
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].startswith("#")):
        lines.pop()
    return len("\n".join(lines))


class _Definition:
    """The function or class at the end of a prompt, with its decorators, while it is continued."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._looked = len(prompt) - 1
        self._is_over = False

    def find_end(self, text: str) -> int | None:
        """Return the length of the text that belongs to the definition if another top-level statement follows it."""
        whole = self._prompt + text
        while not self._is_over and (line := _NEXT_LINE.search(whole, self._looked + 1)):
            self._looked = line.start()
            statements = _top_level(whole[: self._looked])
            if not statements or statements[-1] != self._looked:
                continue  # inside of a string or of brackets
            definition = len(statements) - 2
            if definition >= 0 and whole.startswith("@", statements[definition]):
                continue  # it is decorated
            begin = definition
            while begin > 0 and whole.startswith("@", statements[begin - 1]):
                begin -= 1
            before = text[: self._looked - len(self._prompt)]
            end = _before_open_lines(before)
            self._is_over = True
            if begin >= 0 and statements[begin] < len(self._prompt) and before[:end].strip():
                return end if _DEFINITION.match(whole, statements[definition]) else None
        return None


def _top_level(code: str) -> list[int]:
    """Return where Python's top-level statements begin, with one appended at the end; [] if the code cannot be read."""
    lines, newline = [0], -1
    while (newline := code.find("\n", newline + 1)) >= 0:
        lines.append(newline + 1)
    starts: list[int] = []
    depth, begins = 0, True
    try:
        for token in tokenize.generate_tokens(StringIO(f"{code}pass\n").readline):
            if token.type == tokenize.ERRORTOKEN:
                return []
            depth += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
            if token.type in _BETWEEN:
                begins = begins or token.type == tokenize.NEWLINE
                continue
            if begins and depth == 0:
                starts.append(lines[token.start[0] - 1] + token.start[1])
            begins = False
    except (tokenize.TokenError, SyntaxError):
        return []
    return starts


_BETWEEN = {
    tokenize.COMMENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.INDENT, tokenize.NEWLINE, tokenize.NL
}  # fmt: skip
