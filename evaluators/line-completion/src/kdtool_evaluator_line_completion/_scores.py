"""Similarity of two lines of code. Spaces at a line's ends, and their number between words, do not count as code."""

from __future__ import annotations

__all__ = ["edit_similarity", "exact_match"]


def exact_match(completion: str, line: str) -> float:
    """Return 1 if both are the same words and marks between white space, else 0.

    CodeXGLUE's exact match (Lu et al. 2021, arXiv 2102.04664, section 4.4): texts are compared after `.split()`.
    """
    return float(completion.split() == line.split())


def edit_similarity(completion: str, line: str) -> float:
    """Return 2 · LCS / (len + len), from 0 to 1, of two lines without white space at their ends; 1 for two empty ones.

    LCS is the length of their longest common subsequence of characters. This is `fuzz.ratio` of rapidfuzz / 100, the
    normalised similarity by insertions and deletions that CodeXGLUE calls edit similarity.
    """
    from rapidfuzz import fuzz

    return fuzz.ratio(completion.strip(), line.strip()) / 100
