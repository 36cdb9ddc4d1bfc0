"""Find the longest copies: runs of words that occur both in generated text and in a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdtool_overlap._ngrams import NGramIndex

__all__ = ["longest_copies"]


def longest_copies(written: Sequence[list[str]], documents: Iterable[list[str]], n: int) -> list[int]:
    """Return, for each of the `written` texts, the length in words of its longest run that occurs in a document.

    0 if no run of `n` words does. Runs are found by their first n-gram and followed to their end. Documents are read once.
    """
    index = NGramIndex(written, n)
    longest = [0] * len(written)
    for document in documents:
        for text, start, position in index.occurrences(document):
            run = n
            most = min(len(written[text]) - start, len(document) - position)
            while run < most and written[text][start + run] == document[position + run]:
                run += 1
            longest[text] = max(longest[text], run)
    return longest
