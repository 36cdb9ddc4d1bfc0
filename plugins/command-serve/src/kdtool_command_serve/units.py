"""End an infilled answer with its syntactic unit: the rest of a line, or the block that the cursor is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import kdtool

__all__ = ["end_at_unit", "find_outdent"]


def end_at_unit(pieces: Iterator[kdtool.TextPiece], before: str, after: str) -> Iterator[kdtool.TextPiece]:
    """Yield the pieces of an answer between two texts up to the end of its unit; text that may still be cut is held back.

    If more text follows in the cursor's line, the answer ends with that line. Otherwise it ends before a line that is
    indented less than the cursor's.
    """
    line = before.rpartition("\n")[2]
    indent = len(line) - len(line.lstrip())
    in_line = bool(after.partition("\n")[0].strip())
    text, shown = "", 0
    with closing(pieces):  # type: ignore[type-var]  # generators, which can be closed
        for piece in pieces:
            text += piece.text
            end = _find_line_end(text) if in_line else find_outdent(text, indent)
            finish = piece.finish if end is None else "stop"
            if end is None:
                end = len(text) if finish else _safe_length(text)
            kept = max(end, shown)
            yield replace(piece, text=text[shown:kept], finish=finish)
            if finish:
                return
            shown = kept


def find_outdent(text: str, indent: int) -> int | None:
    """Return where the first line begins that is indented less; the rest of the cursor's line does not count."""
    end = text.find("\n") if indent else -1
    while end >= 0:
        line = text[end + 1 :].partition("\n")[0]
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            return len(text[:end].rstrip())
        end = text.find("\n", end + 1)
    return None


def _find_line_end(text: str) -> int | None:
    end = text.find("\n")
    return end if end >= 0 else None


def _safe_length(text: str) -> int:
    """Return the length of a text without the line breaks and the indentation that it ends in."""
    return len(text.rstrip())
