"""Devices that improve completions at a cursor: their settings, and how they shape an answer.

`units` ends an answer with its line or block, `syntax` cuts what does not parse, and the best of several answers is one
greedy and others sampled, of which the likeliest is returned. JetBrains' local completion discards suggestions that
introduce syntax errors (arXiv 2405.08704); here the longest beginning with which the code parses is kept.

The command imports this module to build its options, so it imports neither a server nor torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from statistics import fmean
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from tree_sitter import Node, Parser


@dataclass(frozen=True)
class Devices:
    """Devices that improve completions at a cursor; docs/benchmarks/serving.md measures each.

    `healing` chooses the last token before the cursor again, `units` ends an answer with its line or block, and `syntax`
    cuts what does not parse. Of `best_of` answers the likeliest is given.
    """

    healing: bool = True
    units: bool = True
    syntax: bool = False
    best_of: int = 1


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


_TEMPERATURE = 0.6
_SEEDS = 7919
"""Distance between the seeds of candidates, so that those of a request with the next seed are others."""


def candidates(request: kdtool.Request, count: int) -> list[kdtool.Request]:
    """Return the request and `count` - 1 sampled ones; the log-probabilities of their tokens are asked for, too."""
    first = replace(request, logprobs=request.logprobs or 0)
    temperature = request.temperature or _TEMPERATURE
    seeds = ((request.seed + number * _SEEDS) % 2**63 for number in range(1, count))
    return [first, *(replace(first, temperature=temperature, seed=seed) for seed in seeds)]


def choose_likeliest(
    streams: Sequence[Iterator[kdtool.TextPiece]], request: kdtool.Request
) -> Iterator[kdtool.TextPiece]:
    """Read streams in turns, so that they share passes, and yield the likeliest answer as the last piece.

    Earlier pieces have no text; counts of tokens are of all answers together.
    """
    answers: list[list[kdtool.TextPiece]] = [[] for _ in streams]
    open_streams = {*range(len(streams))}
    try:
        while open_streams:
            for number in sorted(open_streams):
                piece = next(streams[number], None)
                if piece is None:
                    open_streams.discard(number)
                    continue
                answers[number].append(piece)
                if piece.finish == "refused":
                    yield piece
                    return
            yield kdtool.TextPiece("", answers[0][-1].tokens_in, _count_tokens(answers))
        best = max(
            (_join_pieces(pieces) for pieces in answers),
            key=lambda piece: (bool(piece.text), likelihood(piece.logprobs)),
        )
        shown = best.logprobs if request.logprobs is not None else ()
        yield replace(best, tokens_out=_count_tokens(answers), logprobs=shown)
    finally:
        for stream in streams:
            if (close := getattr(stream, "close", None)) is not None:
                close()


def likelihood(logprobs: Sequence[kdtool.TokenLogprob]) -> float:
    """Return the mean log-probability per token; that of an empty answer is −∞."""
    return fmean(token.logprob for token in logprobs) if logprobs else float("-inf")


def _count_tokens(found: Sequence[Sequence[kdtool.TextPiece]]) -> int:
    return sum(pieces[-1].tokens_out for pieces in found if pieces)


def _join_pieces(pieces: Sequence[kdtool.TextPiece]) -> kdtool.TextPiece:
    """Return a whole answer as one piece."""
    logprobs = tuple(token for piece in pieces for token in piece.logprobs)
    return replace(pieces[-1], text="".join(piece.text for piece in pieces), logprobs=logprobs)
