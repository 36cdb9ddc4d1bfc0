"""Token accuracy: how often the next token of code is predicted whole, given all tokens before it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate

__all__ = ["SKIPPED", "correct_tokens", "language_of"]

SKIPPED = frozenset({"<s>", "</s>", "<EOL>", "<pad>"})
"""Marks of the datasets that are not predicted."""


def language_of(codes: Iterable[str]) -> str:
    """Return the language of tokenised code: py150 marks where lines end, javaCorpus does not, and there are no others."""
    return "python" if any("<EOL>" in code for code in codes) else "java"


def correct_tokens(
    text: str, pieces: Sequence[bytes], predicted: Sequence[bytes], same: Sequence[bool]
) -> tuple[int, int]:
    """Count the tokens of a text that are predicted, and all that count.

    Tokens are separated by white space; those of `SKIPPED` do not count. A token is predicted if each of the model's smaller
    tokens in it is predicted given the text before, or if the prediction there begins with the token as a word. Wrong
    predictions are not fed back: whole tokens are then wrong either way, as CodeXGLUE's `eval_acc` in
    CodeCompletion-token/code/run_lm.py explains.

    Args:
        text: tokens with white space between them.
        pieces: bytes of the model's tokens of `text`, N together.
        predicted: the bytes of the likeliest token in place of each, b"" for special tokens; N.
        same: whether it is the same token; N.
    """
    ends = list(accumulate(map(len, pieces)))
    correct = counted = first = behind = 0
    for token in re.finditer(rb"\S+", text.encode("utf-8")):
        while first < len(ends) and ends[first] <= behind:
            first += 1
        last = first
        while last < len(ends) and (ends[last - 1] if last else 0) < token.end():
            last += 1
        behind = token.end()
        if token[0].decode("utf-8") in SKIPPED:
            continue
        counted += 1
        # A special token ends no word: without a mark in its place, the words around it would run together.
        words = b"".join(piece or b"\0" for piece in predicted[first:last]).split()
        correct += all(same[first:last]) or words[:1] == [token[0]]
    return correct, counted
