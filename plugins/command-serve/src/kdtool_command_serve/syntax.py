"""Completions that fit into the code around them, as tree-sitter parses it.

JetBrains' local completion discards suggestions that introduce syntax errors (arXiv 2405.08704). Here the longest beginning
of a completion with which the code parses is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from importlib import import_module
from statistics import fmean
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

__all__ = ["cut_to_fit", "fitting_length"]

_LANGUAGES = ("python", "javascript", "java", "cpp", "go", "rust")
_AROUND = 2000
"""Characters before and after the cursor that are parsed."""
_FOREIGN = 0.3
"""Share of characters in errors above which the code is in none of the languages."""
_FEW = 0.02
"""Share below which no other language is tried."""
_CUTS = 24
"""Places at most where a completion is tried to end, besides its beginning and its end."""
_BOUNDARY = re.compile(r"(?<=\w)(?!\w)|(?<=[^\w\s])")
_STATEMENT = re.compile(r"^(?=[^\s#)\]}'\"])", re.MULTILINE)
"""Beginning of a line that is not indented."""


def cut_to_fit(pieces: Iterator[kdtool.TextPiece], before: str, after: str) -> Iterator[kdtool.TextPiece]:
    """Yield an answer that is inserted between two texts as one piece at its end, cut to its `fitting_length`.

    Earlier pieces have no text.
    """
    text = ""
    logprobs: tuple[kdtool.TokenLogprob, ...] = ()
    with closing(pieces):  # type: ignore[type-var]  # generators, which can be closed
        for piece in pieces:
            text, logprobs = text + piece.text, logprobs + piece.logprobs
            if piece.finish in {"stop", "length"}:
                kept = fitting_length(before, text, after)
                whole = kept == len(text)
                yield replace(piece, text=text[:kept], finish=piece.finish if whole else "stop", logprobs=logprobs)
                return
            yield replace(piece, text="", logprobs=())


def fitting_length(before: str, text: str, after: str) -> int:
    """Return the length of the longest beginning of a text, which may be empty, with which the code around it parses.

    The text stays whole if there is none, or if its language is not known.
    """
    before, after = _near(before, after)
    language = _find_language(before + after, before + text + after)
    if language is None or _parses(before + text + after, language):
        return len(text)
    return next((end for end in _ends(text) if _parses(before + text[:end] + after, language)), len(text))


def _near(before: str, after: str) -> tuple[str, str]:
    """Return the statements next to the cursor: an editor may send text that begins and ends within one."""
    starts = [found.start() for found in _STATEMENT.finditer(before[-_AROUND:], 1)]
    ends = [found.start() for found in _STATEMENT.finditer(after[:_AROUND], 1)]
    before = before[-_AROUND:][starts[0] if starts else 0 :]
    return before, after[: ends[-1] if ends else _AROUND]


def _ends(text: str) -> list[int]:
    """Return the lengths of a text's beginnings up to a word's or a mark's end, the longest first, and 0."""
    ends = {found.start() for found in _BOUNDARY.finditer(text)} - {0, len(text)}
    return [*sorted(ends, reverse=True)[:_CUTS], 0]


def _find_language(*codes: str) -> str | None:
    """Return the language in which the least of some codes is in errors."""
    shares = {}
    for language in _LANGUAGES:
        shares[language] = fmean(_share_of_errors(code, language) for code in codes)
        if shares[language] <= _FEW:
            return language
    best = min(shares, key=shares.__getitem__)
    return best if shares[best] <= _FOREIGN else None


def _share_of_errors(code: str, language: str) -> float:
    root = _parse(code, language)
    return sum(node.end_byte - node.start_byte for node in _errors(root)) / max(1, root.end_byte - root.start_byte)


def _parses(code: str, language: str) -> bool:
    return not _parse(code, language).has_error


def _errors(node: Node) -> Iterator[Node]:
    """Yield the outermost nodes that are errors."""
    if node.is_error:
        yield node
    elif node.has_error:
        for child in node.children:
            yield from _errors(child)


def _parse(code: str, language: str) -> Node:
    return _parser(language).parse(code.encode("utf-8", "replace")).root_node


@cache
def _parser(language: str) -> Parser:
    import tree_sitter

    return tree_sitter.Parser(tree_sitter.Language(import_module(f"tree_sitter_{language}").language()))
