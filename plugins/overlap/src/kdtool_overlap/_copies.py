"""The longest copies: runs of words that stand both in what a model wrote and in a document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdtool_overlap._ngrams import NGramIndex

__all__ = ["longest_copies"]


def longest_copies(written: Sequence[list[str]], documents: Iterable[list[str]], n: int) -> list[int]:
    """Return for each of the `written` texts how many words its longest run has that stands in one of the documents.

    0 where no run of `n` words does. Every run begins with an n-gram, so runs are found by their first one and followed to
    their end. Documents are read once.
    """
    index = NGramIndex(written, n)
    longest = [0] * len(written)
    for document in documents:
        for text, start, place in index.occurrences(document):
            run = n
            most = min(len(written[text]) - start, len(document) - place)
            while run < most and written[text][start + run] == document[place + run]:
                run += 1
            longest[text] = max(longest[text], run)
    return longest
