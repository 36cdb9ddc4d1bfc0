"""Accepted completions, estimated from the text before the cursor in later requests. Nothing leaves the server's memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kdtool_command_serve.engine import Answer

__all__ = ["Acceptance", "Completions"]

_KEPT = 64
"""Shown completions that may still be accepted."""
_TAIL = 256
"""Characters before a completion that are looked for in later requests."""


@dataclass
class Completions:
    """Counts of one model: completions asked for, shown (finished, with text) and accepted."""

    asked: int = 0
    shown: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class _Shown:
    model: str
    before: str
    text: str


class Acceptance:
    """Counts completions per model.

    A completion counts as accepted once a later request, to any model, has more text before the cursor that begins with it.
    Text that ends with the completion is not enough, since editors ask ahead for the text after one that they still show.
    It is forgotten when a request has other text in its place.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Completions] = {}
        self._open: deque[_Shown] = deque(maxlen=_KEPT)

    def count(self, model: str) -> Completions:
        """Return the counts of a model."""
        return self._counts.setdefault(model, Completions())

    def add(self, model: str, answer: Answer) -> None:
        """Count an answer that ended. Leaves out chats, answers to the page, and prompts that only warm a cache."""
        request = answer.request
        if request.turns or answer.task.natural_end or request.max_tokens == 1 or answer.end == "refused":
            return
        self._look_for_accepted(request.prompt)
        counts = self.count(model)
        counts.asked += 1
        text = answer.text.rstrip()
        if answer.end in {"stop", "length"} and text and request.prompt.strip():
            counts.shown += 1
            self._open.append(_Shown(model, request.prompt[-_TAIL:], text))

    def _look_for_accepted(self, prompt: str) -> None:
        """Find open completions in the text before the cursor, the newest first."""
        counted: list[range] = []
        for shown in reversed([*self._open]):
            at = prompt.rfind(shown.before)
            span = range(at + len(shown.before), at + len(shown.before) + len(shown.text))
            after = prompt[span.start :]
            if at < 0 or shown.text.startswith(after.rstrip()):
                continue  # it may still be accepted
            self._open.remove(shown)
            # Of several for the same place, such as one after each typed letter, the newest counts.
            is_new = all(span.stop <= other.start or other.stop <= span.start for other in counted)
            if after.startswith(shown.text) and is_new:
                self.count(shown.model).accepted += 1
                counted.append(span)
