"""Words, the units of n-grams: independent of tokenizers, so that texts compare alike for every model."""

from __future__ import annotations

import re

import kdtool

__all__ = ["is_name", "spans_of", "whole_text_of", "words_of", "words_of_example"]

_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[^\W\d]\w")


def words_of(text: str) -> list[str]:
    """Return names, keywords and numbers, without the punctuation between them.

    GPT-3's n-grams drop punctuation, too (arXiv 2005.14165, appendix C): code is full of signs that carry little
    information, and ten tokens in a row would soon be alike.
    """
    return _WORD.findall(text)


def whole_text_of(example: kdtool.Example) -> str:
    """Return all parts of an example, including rejected answers, since losses train on them, too."""
    body = example.body
    rejected = (body.rejected,) if isinstance(body, kdtool.Preference) else ()
    return "\n".join((*kdtool.parts_of(body), *rejected))


def words_of_example(example: kdtool.Example) -> list[str]:
    """Return the words of `whole_text_of` an example."""
    return words_of(whole_text_of(example))


def spans_of(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each word of `words_of` in the text."""
    return [match.span() for match in _WORD.finditer(text)]


def is_name(word: str) -> bool:
    """Return whether a word has at least two characters and does not begin with a digit."""
    return _NAME.match(word) is not None
