"""Words: what n-grams are of. They depend on no tokenizer, so that texts compare alike for every model."""

from __future__ import annotations

import re

import kdtool

__all__ = ["is_name", "spans_of", "words_learned", "words_of"]

_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[^\W\d]\w")


def words_of(text: str) -> list[str]:
    """Return names, keywords and numbers; what stands between them is dropped.

    GPT-3's n-grams are of words without punctuation, too (arXiv 2005.14165, appendix C): code is full of signs that say
    little, and with them ten in a row are soon alike.
    """
    return _WORD.findall(text)


def words_learned(example: kdtool.Example) -> list[str]:
    """Return the words of all parts of an example, what is there to be avoided among them: a loss shows it, too."""
    body = example.body
    rejected = (body.rejected,) if isinstance(body, kdtool.Preference) else ()
    return words_of("\n".join((*kdtool.parts_of(body), *rejected)))


def spans_of(text: str) -> list[tuple[int, int]]:
    """Return where each word of `words_of` begins and ends in the text."""
    return [found.span() for found in _WORD.finditer(text)]


def is_name(word: str) -> bool:
    """Say whether a word has two letters at least and does not begin with a digit."""
    return _NAME.match(word) is not None
