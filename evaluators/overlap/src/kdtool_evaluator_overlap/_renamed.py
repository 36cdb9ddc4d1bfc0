"""Copies of code under other names: found by a few n-grams of its shape, and confirmed by how much of the code is there.

The shape of code is its tokens without the names that somebody chose, so that a renamed copy has the shape of its source.
White space, parentheses, braces, commas, semicolons and quotes do not count, since formatters add and remove them. A name
counts as the distance to its last occurrence, as in parameterised matching (Baker 1993); keywords, numbers and operators
count as they are. Comments are not recognised: what they contain is code like everything else.
"""

from __future__ import annotations

import ast
import keyword
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice, repeat
from typing import TYPE_CHECKING

import numpy as np

from kdtool_evaluator_overlap._ngrams import HashTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COVERED = 0.85
"""Share of a code's tokens that must be there, in n-grams of the same shape."""
_LONG = 20
"""Tokens from which that is enough. Shorter code must be present whole, with the names that a copy cannot change."""
_SHORT = 9
"""Minimum tokens of code: shorter code is too common."""
_BRIEF = 2000
"""Tokens of a document up to which code below `_LONG` is looked for: a longer one has such code by chance."""
_BETWEEN = frozenset("\n;{}")
"""Signs between statements."""
_PARTS = 8
"""Parts of a code; the rarest n-gram of each is looked for."""
_NEEDED = 2
"""N-grams, at the same distance as in the code, after which the rest of it is looked for."""
_MOVED = 16
"""Tokens by which n-grams of a long copy may be moved, since other tokens were added or removed before them."""
_PYTHON_COMMENT = re.compile(r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*')
"""Strings, too: documentation is one, and what looks like a comment may be within one."""
_COMMENT = re.compile(r"/\*[\s\S]*?\*/|//[^\n]*")


class Documents:
    """Texts as one list of tokens, each ended by a token that no text contains, and the hashes of their shape."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        each = [[*tokens_of(text), "\0"] for text in texts]
        self.tokens = [token for tokens in each for token in tokens]
        self.ends = np.cumsum([len(tokens) for tokens in each], dtype=np.int64)
        self._kinds = kinds_of(self.tokens)
        self.hashes, self.counts = shape_hashes(self.tokens, self._kinds)

    def words(self) -> tuple[list[str], NDArray[np.int64]]:
        """Return the tokens without operators, and where those of each text end, [texts]."""
        words = self._kinds != OPERATOR
        return list(compress(self.tokens, words.tolist())), np.cumsum(words, dtype=np.int64)[self.ends - 1]

    def holding(self, index: int) -> int:
        """Return the number of the text that contains the token at an index, or of the nearest one."""
        return min(int(np.searchsorted(self.ends, index, "right")), len(self.ends) - 1)

    def bounds(self, number: int) -> tuple[int, int]:
        """Return where the tokens of a text begin and end."""
        return int(self.ends[number - 1]) if number else 0, int(self.ends[number]) - 1


@dataclass(frozen=True)
class _Code:
    """A form of a problem: its tokens, hashes that count, their places, tokens that copies share, and how many names."""

    text: int
    tokens: list[str]
    hashes: NDArray[np.uint64]
    places: NDArray[np.int64]
    fixed: NDArray[np.bool_]
    names: int

    @property
    def is_distinctive(self) -> bool:
        """True if this is long enough to be rare, and code rather than prose."""
        length = len(self.tokens)
        if length < _LONG:
            return length >= _SHORT and len(self.places) > 0 and 5 * self.names <= 3 * length
        return 2 * _count_matching(self.places) >= length


class RenamedCopies:
    """Finds code with the shape of one of `texts`."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """Index the texts.

        Args:
            texts: the parts of each; the last is code that may be copied without the others.
        """
        self._codes = [
            code for number, parts in enumerate(texts) for code in _forms(number, parts) if code.is_distinctive
        ]
        holders = Counter(gram for code in self._codes for gram in {*code.hashes.tolist()})
        chosen = [_rarest(code, holders) for code in self._codes]
        pairs = list(zip(self._codes, chosen, strict=True))
        self._table = HashTable(np.concatenate([np.zeros(0, np.uint64), *(code.hashes[at] for code, at in pairs)]))
        self._numbers = np.repeat(np.arange(len(pairs)), [len(at) for at in chosen])
        self._places = np.concatenate([np.zeros(0, np.int64), *(code.places[at] for code, at in pairs)])
        self._needed = np.array([min(len(at), _NEEDED) for at in chosen], np.int64)

    def found_in(self, documents: Documents) -> Iterator[tuple[int, int, str]]:
        """Yield the number of each document with that of a text that it has a copy of, and the copy's tokens."""
        seen = set[tuple[int, int]]()
        for number, start in self._candidates(documents):
            code = self._codes[number]
            end = start + len(code.tokens)
            document = documents.holding((start + end) // 2)
            if (document, code.text) not in seen and _is_copy(code, documents, document, start):
                seen.add((document, code.text))
                first, last = documents.bounds(document)
                yield document, code.text, " ".join(documents.tokens[max(first, start) : min(last, end)])

    def _candidates(self, documents: Documents) -> Iterator[tuple[int, int]]:
        """Yield the codes with enough rare n-grams at the right distances, and where each would begin."""
        places, entries = self._table.matches(documents.hashes)
        starts, numbers = places - self._places[entries], self._numbers[entries]
        most = max((len(code.tokens) for code in self._codes), default=0)
        width = len(documents.tokens) + most
        candidates, times = np.unique(numbers * width + starts + most, return_counts=True)
        enough = times >= self._needed[candidates // width]
        for candidate in candidates[enough].tolist():
            yield candidate // width, candidate % width - most


def _rarest(code: _Code, holders: Mapping[int, int]) -> NDArray[np.int64]:
    """Return the rarest n-gram of each of a few parts of a code, by their indices."""
    parts = np.array_split(np.arange(len(code.hashes)), _PARTS)
    counts = np.array([holders[gram] for gram in code.hashes.tolist()])
    return np.array([part[counts[part].argmin()] for part in parts if len(part)], np.int64)


def _is_copy(code: _Code, documents: Documents, document: int, start: int) -> bool:
    first, last = documents.bounds(document)
    if len(code.tokens) < _LONG:
        return last - first <= _BRIEF and _is_short_copy(code, documents, document, start)
    there = np.zeros(len(code.places), np.bool_)
    most = min(_MOVED, (len(code.tokens) - _LONG) // 2)
    for moved in range(-most, most + 1):
        at = start + moved + code.places
        inside = (at >= first) & (at <= last - GRAM)
        there[inside] |= documents.hashes[at[inside]] == code.hashes[inside]
    covered = _count_matching(code.places)
    missing = covered - _count_matching(code.places[there])
    return missing <= min((1 - _COVERED) * covered, (len(code.tokens) - _LONG) / 4)


def _is_short_copy(code: _Code, documents: Documents, document: int, start: int) -> bool:
    """Return whether the whole code is at `start` as separate statements, with at most its own names changed."""
    first, last = documents.bounds(document)
    end = start + len(code.tokens)
    if start < first or end > last:
        return False
    there, back = dict[str, str](), dict[str, str]()
    for expected, actual, fixed in zip(code.tokens, documents.tokens[start:end], code.fixed.tolist(), strict=True):
        if (
            (expected != actual)
            if fixed
            else (there.setdefault(expected, actual) != actual or back.setdefault(actual, expected) != expected)
        ):
            return False
    return _is_apart(documents.texts[document], start - first, end - first)


def _is_apart(text: str, first: int, last: int) -> bool:
    """Return whether the tokens from `first` to before `last` are separate from the statements before and after them."""
    tokens = (match.span() for match in islice(_TOKEN.finditer(text), last + 1))
    spans = [(0, 0), *tokens, (len(text), len(text))]
    before, after = text[spans[first][1] : spans[first + 1][0]], text[spans[last][1] : spans[last + 1][0]]
    return (first == 0 or not _BETWEEN.isdisjoint(before)) and (
        spans[last + 1][0] == len(text) or not _BETWEEN.isdisjoint(after)
    )


def _count_matching(places: NDArray[np.int64]) -> int:
    """Return the number of tokens in n-grams at these places, which ascend."""
    return int(np.minimum(np.diff(places), GRAM).sum()) + GRAM if len(places) else 0


def _forms(number: int, parts: Sequence[str]) -> Iterator[_Code]:
    """Yield a problem as it is, without its documentation, and only its last part."""
    whole = "\n".join(parts)
    try:
        python = ast.parse(whole)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        python = None
    comment = _COMMENT if python is None else _PYTHON_COMMENT
    for text in dict.fromkeys((whole, comment.sub(_keep_strings, whole), comment.sub(_keep_strings, parts[-1]))):
        tokens = tokens_of(text)
        kinds = kinds_of(tokens)
        hashes, counts = shape_hashes(tokens, kinds)
        places = np.flatnonzero(counts)
        chosen = _find_unqualified(tokens) if python is None else _find_bound(python)
        names = set(compress(tokens, (kinds == NAME).tolist()))
        fixed = np.array([token not in chosen for token in tokens], np.bool_)
        yield _Code(number, tokens, hashes[places], places, fixed | (kinds != NAME), len(names))


def _keep_strings(match: re.Match[str]) -> str:
    """Return the replacement of a comment or string; a string is kept unless it is documentation."""
    begins = not match.string[: match.start()].rpartition("\n")[2].strip()
    is_string = match[0][0] in "\"'"
    return match[0] if is_string and not (begins and match[0][:3] in ('"""', "'''")) else " "


def _find_bound(python: ast.Module) -> set[str]:
    """Return the names that Python code binds."""
    nodes = list(ast.walk(python))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return names | {
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def _find_unqualified(tokens: Sequence[str]) -> set[str]:
    """Return the tokens that occur other than after a single dot; names of methods occur only there."""
    around = zip(["", "", *tokens], ["", *tokens], tokens, strict=False)
    return {token for second, first, token in around if first != "." or second == "."}


GRAM = 8
"""Tokens per n-gram of a shape."""
_KNOWN = 3
"""An n-gram counts from this number of tokens that are not names, or that repeat one of its names; others occur in prose."""
_OPERATORS = r"!#$%&*+-./:<=>?@[]^|~"
_TOKEN = re.compile(rf"(?![bfruBFRU]{{1,2}}[\"'])\w+|[{re.escape(_OPERATORS)}]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FURTHER = "catch const extends false fn impl let mut null private protected public static throw throws true void"
_KEYWORDS = frozenset((*keyword.kwlist, *_FURTHER.split()))
"""Keywords of Python, Java, JavaScript, C++, Go and Rust, except those that are names in another of them."""
NAME, KEYWORD, OPERATOR, NUMBER = range(4)
"""Kinds of tokens."""
_KINDS = dict.fromkeys(_KEYWORDS, KEYWORD) | dict.fromkeys(_OPERATORS, OPERATOR)


def tokens_of(text: str) -> list[str]:
    """Return the tokens that count: names, keywords, numbers and operators, the latter one character each."""
    return _TOKEN.findall(text)


def kinds_of(tokens: Sequence[str]) -> NDArray[np.int8]:
    """Return the kind of each token, [len(tokens)]."""
    kinds = np.fromiter(map(_KINDS.get, tokens, repeat(NAME)), np.int8, len(tokens))
    kinds[(kinds == NAME) & ~np.fromiter(map(str.isidentifier, tokens), np.bool_, len(tokens))] = NUMBER
    return kinds


def shape_hashes(tokens: Sequence[str], kinds: NDArray[np.int8]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return a hash of each n-gram's shape, and whether it counts, [len(tokens) − GRAM + 1] each or none.

    Hashes differ between processes, so never store them.
    """
    length = max(0, len(tokens) - GRAM + 1)
    hashes, known = np.zeros(length, np.uint64), np.zeros(length, np.int8)
    if not length:
        return hashes, known > 0
    token_hashes = np.fromiter(map(hash, tokens), np.int64, len(tokens))
    names = kinds == NAME
    since = np.zeros(len(token_hashes), np.int64)
    for distance in range(GRAM - 1, 0, -1):
        since[distance:][names[distance:] & (token_hashes[distance:] == token_hashes[:-distance])] = distance
    token_hashes[names] = 0
    for offset in range(GRAM):
        part = slice(offset, offset + length)
        inside = since[part] * (since[part] <= offset)
        hashes = hashes * _FACTOR + (token_hashes[part] + inside).view(np.uint64)
        known += ~names[part] | (inside > 0)
    return hashes, known >= _KNOWN
