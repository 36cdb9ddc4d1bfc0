"""Copies of code under other names: found by a few n-grams of the shape, and confirmed by how much of the code is there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from kdtool_overlap._shapes import GRAM, are_names, shape_hashes, spans_of_tokens, tokens_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RenamedCopies", "Shaped"]

_COVERED = 0.85
"""Share of a code's tokens that must be there, in n-grams of the same shape."""

_LONG = 20
"""Tokens from which that is enough. Shorter code must be there whole, with the names that a copy cannot change."""

_SHORT = 9
"""Tokens below which code says too little to be told from other code."""

_BRIEF = 2000
"""Tokens of a document up to which code below `_LONG` is looked for: a longer one has such code by chance."""

_BETWEEN = frozenset("\n;{}")
"""Signs between statements."""

_PARTS = 8
"""Parts of a code, of each of which the rarest n-gram is looked for."""

_NEEDED = 2
"""N-grams, at the same distance as in the code, after which the rest of it is looked for."""

_MOVED = 16
"""Tokens by which n-grams of a copy may be moved, since others were put in or left out before them."""

_PYTHON_COMMENT = re.compile(r'^[ \t]*"""[\s\S]*?"""|^[ \t]*\'\'\'[\s\S]*?\'\'\'|#[^\n]*', re.MULTILINE)
_COMMENT = re.compile(r"/\*[\s\S]*?\*/|//[^\n]*")


class Shaped:
    """A text's tokens with the hashes of their shape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens_of(text)
        self.hashes, self.counts = shape_hashes(self.tokens)


@dataclass(frozen=True)
class _Code:
    """A form of a problem to look for: its tokens, the hashes that count, their places, and which names are its own."""

    text: int
    tokens: list[str]
    hashes: NDArray[np.uint64]
    places: NDArray[np.int64]
    fixed: NDArray[np.bool_]

    @property
    def is_telling(self) -> bool:
        """Whether this is enough code to be told from other code, and from prose."""
        length = len(self.tokens)
        if length < _LONG:
            return length >= _SHORT and len(self.places) > 0 and 2 * len({*_names(self.tokens)}) <= length
        return 2 * _covered(self.places) >= length


class RenamedCopies:
    """Finds code with the shape of one of `texts`."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """Index the texts.

        Args:
            texts: the parts of each; the last is code that may be copied alone.
        """
        self._codes = [code for number, parts in enumerate(texts) for code in _forms(number, parts) if code.is_telling]
        holders = Counter(one for code in self._codes for one in {*code.hashes.tolist()})
        chosen = [_rarest(code, holders) for code in self._codes]
        sizes = [len(each) for each in chosen]
        none = np.zeros(0, np.int64)
        keys = np.concatenate(
            [none.view(np.uint64), *(c.hashes[at] for c, at in zip(self._codes, chosen, strict=True))]
        )
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._numbers = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._places = np.concatenate([none, *(c.places[at] for c, at in zip(self._codes, chosen, strict=True))])[order]
        self._needed = np.minimum(sizes, _NEEDED)

    def found_in(self, document: Shaped) -> Iterator[tuple[int, str]]:
        """Yield the number of each text that a document has a copy of, with the copy's tokens."""
        seen = set[int]()
        for number, start in self._candidates(document):
            code = self._codes[number]
            if code.text not in seen and _is_copy(code, document, start):
                seen.add(code.text)
                yield code.text, " ".join(document.tokens[max(0, start) : start + len(code.tokens)])

    def _candidates(self, document: Shaped) -> Iterator[tuple[int, int]]:
        """Yield codes, and where each would begin, of which enough rare n-grams stand where they would."""
        first, last = (np.searchsorted(self._keys, document.hashes, side) for side in ("left", "right"))
        hits = np.flatnonzero((last > first) & document.counts)
        counts = (last - first)[hits]
        entries = np.repeat(first[hits] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        starts = np.repeat(hits, counts) - self._places[entries]
        found, times = np.unique(np.stack([self._numbers[entries], starts]), axis=1, return_counts=True)
        yield from found[:, times >= self._needed[found[0]]].T.tolist()


def _rarest(code: _Code, holders: Mapping[int, int]) -> NDArray[np.int64]:
    """Return the rarest n-gram of each of a few parts of a code, by their indices."""
    parts = np.array_split(np.arange(len(code.hashes)), _PARTS)
    held = np.array([holders[one] for one in code.hashes.tolist()])
    return np.array([part[held[part].argmin()] for part in parts if len(part)], np.int64)


def _is_copy(code: _Code, document: Shaped, start: int) -> bool:
    if len(code.tokens) < _LONG:
        return len(document.tokens) <= _BRIEF and _is_short_copy(code, document, start)
    padded = np.pad(document.hashes, (_MOVED, _MOVED))
    there = np.zeros(len(code.places), np.bool_)
    for moved in range(2 * _MOVED + 1):
        at = start + moved + code.places
        there |= padded[np.clip(at, 0, len(padded) - 1)] == code.hashes
    all_covered = _covered(code.places)
    missing = all_covered - _covered(code.places[there])
    return missing <= min((1 - _COVERED) * all_covered, (len(code.tokens) - _LONG) / 4)


def _is_short_copy(code: _Code, document: Shaped, start: int) -> bool:
    """Return whether the whole code is at `start`, in lines of its own, with other names at most for its own ones."""
    end = start + len(code.tokens)
    others = document.tokens[max(0, start) : end]
    if len(others) < len(code.tokens):
        return False
    there, back = dict[str, str](), dict[str, str]()
    for own, other, fixed in zip(code.tokens, others, code.fixed.tolist(), strict=True):
        if (own != other) if fixed else (there.setdefault(own, other) != other or back.setdefault(other, own) != own):
            return False
    return _is_apart(document.text, start, end)


def _is_apart(text: str, first: int, last: int) -> bool:
    """Return whether other statements, or none, stand before and behind the tokens from `first` to before `last`."""
    spans = [(0, 0), *spans_of_tokens(text, 0, last + 1), (len(text), len(text))]
    before, behind = text[spans[first][1] : spans[first + 1][0]], text[spans[last][1] : spans[last + 1][0]]
    return (first == 0 or not _BETWEEN.isdisjoint(before)) and (
        spans[last + 1][0] == len(text) or not _BETWEEN.isdisjoint(behind)
    )


def _covered(places: NDArray[np.int64]) -> int:
    """Return the number of tokens in n-grams at these places, which ascend."""
    return int(np.minimum(np.diff(places), GRAM).sum()) + GRAM if len(places) else 0


def _forms(number: int, parts: Sequence[str]) -> Iterator[_Code]:
    """Yield a problem as it is, without its documentation, and its last part alone."""
    whole = "\n".join(parts)
    try:
        python = ast.parse(whole)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        python = None
    comment = _COMMENT if python is None else _PYTHON_COMMENT
    for text in dict.fromkeys((whole, comment.sub(" ", whole), comment.sub(" ", parts[-1]))):
        tokens = tokens_of(text)
        hashes, counts = shape_hashes(tokens)
        places = np.flatnonzero(counts)
        chosen = _unqualified(tokens) if python is None else _bound(python)
        fixed = np.array([token not in chosen for token in tokens], np.bool_)
        yield _Code(number, tokens, hashes[places], places, fixed | ~are_names(tokens))


def _names(tokens: Sequence[str]) -> Iterator[str]:
    return compress(tokens, are_names(tokens).tolist())


def _bound(python: ast.Module) -> set[str]:
    """Return the names that Python code gives to things itself."""
    nodes = list(ast.walk(python))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return names | {
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def _unqualified(tokens: Sequence[str]) -> set[str]:
    """Return the tokens that do not only occur behind a single point, as the names of methods do."""
    around = zip(["", "", *tokens], ["", *tokens], tokens, strict=False)
    return {token for second, first, token in around if first != "." or second == "."}
