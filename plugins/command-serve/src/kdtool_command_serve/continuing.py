"""Gaps for models without FIM tokens: they continue the text before the gap, up to where the text after it begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import kdtool

__all__ = ["HEADER", "as_gap", "end_at_suffix"]

HEADER = {"Kdtool-Gap": "continued"}
"""Header of responses whose model continued the text before a gap, because it has no FIM tokens."""
_MARKS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<PRE> ", " <SUF>", " <MID>"),
)
"""FIM tokens of StarCoder, Qwen, DeepSeek, GLM and Code Llama, which editors write themselves."""
_TEMPLATES = [
    (prefix.strip(), re.compile(pattern, re.DOTALL))
    for prefix, suffix, middle in _MARKS
    for pattern in (
        f".*?{re.escape(prefix)}(?P<prefix>.*){re.escape(suffix)}(?P<suffix>.*){re.escape(middle)}\\s*",
        f".*?{re.escape(suffix)}(?P<suffix>.*){re.escape(prefix)}(?P<prefix>.*){re.escape(middle)}(<\\|assistant\\|>)?\\s*",
    )
] + [("[PREFIX]", re.compile(r".*?\[SUFFIX\](?P<suffix>.*)\[PREFIX\](?P<prefix>.*)", re.DOTALL))]
"""The prefix's token and the pattern of prompts in both orders, and in that of Codestral, which has no last token."""


def as_gap(request: kdtool.Request, runtime: kdtool.Runtime) -> kdtool.Request:
    """Return a request whose prompt has another model's FIM tokens as one with a suffix; any other one as it is.

    Text before the first FIM token, such as other files, is left out.
    """
    family = getattr(runtime, "infilling", None)
    if request.suffix is not None or request.turns or ("infill" in runtime.abilities and family is None):
        return request
    known = {token.strip("▁") for token in family.tokens} if family else set()
    for mark, pattern in _TEMPLATES:
        if mark not in known and (match := pattern.fullmatch(request.prompt)):
            return replace(request, prompt=match["prefix"], suffix=match["suffix"])
    return request


def end_at_suffix(pieces: Iterator[kdtool.TextPiece], suffix: str) -> Iterator[kdtool.TextPiece]:
    """Yield the pieces of a continued text up to where the suffix begins; text that may still be cut is held back.

    If the cursor's line has text after the gap, the text ends within that line. Otherwise it ends before the suffix's first
    line that is not blank.
    """
    text, shown = "", 0
    with closing(pieces):  # type: ignore[type-var]  # generators, which can be closed
        for piece in pieces:
            text += piece.text
            end = _find_end(text, suffix, is_whole=piece.finish is not None)
            finish = piece.finish if end is None else "stop"
            if end is None:
                end = len(text) if finish else _safe_length(text, suffix)
            kept = max(end, shown)
            yield replace(piece, text=text[shown:kept], finish=finish)
            if finish:
                return
            shown = kept


def _find_end(text: str, suffix: str, *, is_whole: bool) -> int | None:
    """Return how much of a text to keep if it has reached the suffix; `is_whole`: no more text follows."""
    rest = suffix.partition("\n")[0].rstrip()
    if rest.strip():
        line, newline, _ = text.partition("\n")
        if not newline and not is_whole:
            return None
        at = line.rfind(rest)
        return len(line.rstrip()) if at < 0 else at
    first = _first_line(suffix)
    begin = 0
    while first and (begin := text.find("\n", begin) + 1):
        line, newline, _ = text[begin:].partition("\n")
        if (newline or is_whole) and line.rstrip() == first:
            return _without_blank_end(text[:begin], suffix)
    return None


def _safe_length(text: str, suffix: str) -> int:
    """Return the length of the text that cannot be cut any more."""
    if suffix.partition("\n")[0].strip():
        return 0
    before, newline, line = text.rpartition("\n")
    begins = bool(newline) and _first_line(suffix).startswith(line.rstrip())
    return len(before.rstrip()) if begins else len(text)


def _first_line(suffix: str) -> str:
    return next((line.rstrip() for line in suffix.split("\n")[1:] if line.strip()), "")


def _without_blank_end(text: str, suffix: str) -> int:
    """Return the length of a text without the line breaks that the suffix begins with."""
    return len(text.rstrip()) if suffix[:1] in {"\n", "\r", " ", "\t"} else len(text)
