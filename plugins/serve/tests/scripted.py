"""A runtime that streams what a test says, and models made of it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import kdtool

ALL: frozenset[kdtool.Ability] = frozenset({"continue", "converse", "prefill", "infill"})


class StreamingRuntime(kdtool.Runtime):
    """Yields one word per token; `seconds` pass before each. `open` counts the streams that are being generated.

    It fails after `breaks_after` tokens.
    """

    def __init__(
        self,
        text: Callable[[kdtool.Request], str] = lambda request: "return width * height\n",
        *,
        streams: int = 2,
        seconds: float = 0.0,
        context: int = 1000,
        abilities: frozenset[kdtool.Ability] = ALL,
    ) -> None:
        self.streams = streams
        self.abilities = abilities
        self.seconds = seconds
        self.context = context
        self.text = text
        self.open = 0
        self.most_open = 0
        self.closed = False
        self.breaks_after: int | None = None
        self.asked: list[kdtool.Request] = []
        self._lock = threading.Lock()

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Unused: `stream` is."""
        raise NotImplementedError

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield the script's text, token by token."""
        with self._lock:
            self.asked.append(request)
            self.open += 1
            self.most_open = max(self.open, self.most_open)
        try:
            yield from self._pieces(request)
        finally:
            with self._lock:
                self.open -= 1

    def _pieces(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        words = [text for _, text in request.turns] + [request.prompt, request.suffix or ""]
        count = sum(len(text.split()) for text in words)
        if count >= self.context:
            yield kdtool.TextPiece("", count, 0, "refused")
            return
        tokens = _words(self.text(request))
        for number, token in enumerate(tokens[: request.max_tokens], 1):
            if self.breaks_after is not None and number > self.breaks_after:
                raise RuntimeError("lost its\nweights")
            time.sleep(self.seconds)
            finish = "length" if number == request.max_tokens else "stop" if number == len(tokens) else None
            found = kdtool.TokenLogprob(token, -0.5, ((token, -0.5), ("other", -1.5))[: request.logprobs or 0])
            logprobs = () if request.logprobs is None else (found,)
            yield kdtool.TextPiece(token, count, number, finish, logprobs=logprobs)  # type: ignore[arg-type]

    def count(self, text: str) -> int:
        """Return the number of words."""
        return len(text.split())

    def memory(self) -> int:
        """Return a constant."""
        return 123_000_000

    def close(self) -> None:
        """Note it."""
        self.closed = True


class ScriptedModels:
    """Models by name, opened as the runtimes or by raising the errors given; `opened` lists the names."""

    def __init__(self, runtimes: Mapping[str, kdtool.Runtime | Exception]) -> None:
        roles: Mapping[str, Literal["control", "teacher"]] = {"control": "control", "teacher": "teacher"}
        self.subjects = {name: kdtool.Subject(name, roles.get(name, "student")) for name in runtimes}
        self.opened: list[str] = []
        self.results: Any = None
        self._runtimes = runtimes

    def open(self, name: str) -> kdtool.Runtime:
        """Open one."""
        self.opened.append(name)
        found = self._runtimes[name]
        if isinstance(found, Exception):
            raise found
        return found


def _words(text: str) -> list[str]:
    """Split text so that its parts, together, are the text."""
    return re.findall(r"\S+\s*|\s+", text)
