"""Token healing: the last token of the text before a cursor is generated again, so that tokens may cross the cursor.

An editor asks in the midst of a word or of an indentation, where the tokens of the text so far are not those of the finished
line. The answer's first tokens are restricted to those that spell the removed text again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

import kdtool
import torch
from kdtool_transformers import TransformersTokenizer
from torch import Tensor

__all__ = ["Healing"]


class Healing:
    """Removes the last token of prompts, and restricts logits to tokens that spell a text.

    Raises:
        UsageError: the bytes of the tokenizer's tokens are unknown.
    """

    def __init__(self, tokenizer: TransformersTokenizer) -> None:
        self._tokenizer = tokenizer
        ids = range(tokenizer.vocabulary)
        self._pieces = tokenizer.pieces([*ids, *ids])[
            len(ids) :
        ]  # twice: some tokenizers drop the space of the first word
        self._sorted = sorted((piece, index) for index, piece in enumerate(self._pieces) if piece)

    def shorten(self, request: kdtool.Request) -> tuple[kdtool.Request, bytes]:
        """Return a request without the last token of its prompt, and that token's bytes; unchanged if it has only one."""
        ids = self._tokenizer.encode(request.prompt)
        before = self._tokenizer.decode(ids[:-1])
        removed = request.prompt[len(before) :].encode()
        if not (before and request.prompt.startswith(before) and removed and self._pieces[ids[-1]] == removed):
            return request, b""
        return replace(request, prompt=before), removed

    def restrict(self, logits: Tensor, text: bytes) -> None:
        """Set the logits [V] of all tokens to −∞ except those that begin with a text or that it begins with."""
        ends = (text[:length] for length in range(1, len(text)))
        spelling = [*self._beginning_with(text), *(index for end in ends for index in self._equal_to(end))]
        kept = logits[spelling]
        logits.fill_(-torch.inf)
        logits[spelling] = kept

    def rest(self, text: bytes, token: int) -> bytes:
        """Return the part of a text that is still to be spelt after a token."""
        return text[len(self._pieces[token]) :]

    def _beginning_with(self, text: bytes) -> Iterator[int]:
        for number in range(bisect_left(self._sorted, (text,)), len(self._sorted)):
            piece, index = self._sorted[number]
            if not piece.startswith(text):
                return
            yield index

    def _equal_to(self, text: bytes) -> Iterator[int]:
        """Yield the tokens of a text; they are the first of those that begin with it."""
        for index in self._beginning_with(text):
            if self._pieces[index] != text:
                return
            yield index
