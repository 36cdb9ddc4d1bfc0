"""The text of an answer that is being generated: whole characters, without text that may still be cut."""

from __future__ import annotations

from typing import Literal

import kdtool
from kdtool_transformers import TransformersTokenizer, finish_text, held_back, text_behind

__all__ = ["GrowingText"]

_BEFORE = 16
"""Tokens of the prompt that are decoded with an answer, so that its first word keeps a leading space."""
_INCOMPLETE = "\ufffd"
"""Decoding writes it for an incomplete character."""


class GrowingText:
    """The text of an answer, released piece by piece.

    It holds back an incomplete character, and text that may be the beginning of a stop string or of the suffix that
    `trim_suffix` removes. `ids` are the tokens of the answer so far. The first `hidden` characters belong to the prompt.
    """

    def __init__(
        self, tokenizer: TransformersTokenizer, request: kdtool.Request, prompt: list[int], hidden: int = 0
    ) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._request, self._prompt = tokenizer, request, prompt
        self._text = ""
        self._hidden = self._released = hidden
        self._window = prompt[-_BEFORE:]
        self._read = len(self._window)

    def add(self, token: int) -> str:
        """Add a token, and return the text that can be released."""
        self.ids.append(token)
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        if text.endswith(_INCOMPLETE):
            return ""
        new = text[len(self._tokenizer.decode(self._window[: self._read])) :]
        if new:  # special tokens have no text, and a word decoded after them would lose its space
            del self._window[: self._read]
        self._read = len(self._window)
        self._text += new
        return self._release(len(self._text) - self._hold_back())

    def has_stopped(self) -> bool:
        """Return whether the text that is held back contains a stop string."""
        return any(stop in self._text[self._released :] for stop in self._request.stop)

    def finish(self, *, ended: bool) -> tuple[str, Literal["stop", "length"]]:
        """Return the rest of the answer, and the reason of its end; `ended`: a token of the model ended it."""
        whole = text_behind(self._tokenizer, self._prompt, self.ids)
        if whole.startswith(self._text[: self._released]):  # byte tokens that make no character may change earlier ones
            self._text = whole
        shown, finish = finish_text(self._text[self._hidden :], self._request, ended)
        self._text = self._text[: self._hidden] + shown
        return self._release(len(self._text)), finish

    def _release(self, end: int) -> str:
        begin, self._released = self._released, max(self._released, end)
        return self._text[begin:end]

    def _hold_back(self) -> int:
        """Return how many characters at the end are held back."""
        text, stops = self._text[self._released :], self._request.stop
        if self.has_stopped():
            return len(text)
        return held_back(text, stops, self._request.suffix or "")
