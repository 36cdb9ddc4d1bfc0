"""One answer of one model, with its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import kdtool
from kdtool_transformers import FILL_ME, end_naturally

STOPPED = "stopped"
"""The finish of an answer that the user stopped."""


@dataclass(frozen=True)
class Settings:
    """Settings of an answer, as in `kdtool.Request`. `chat` asks for an assistant's answer, `fill` for code at `FILL_ME`.

    `raw` answers continue past their natural end (`end_naturally`).
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    chat: bool = False
    fill: bool = False
    raw: bool = False

    def request(self, prompt: str, turns: tuple[tuple[str, str], ...] = ()) -> kdtool.Request:
        """Return the request for a prompt after earlier turns, which count only in a chat.

        Raises:
            UsageError: a prompt to fill does not contain <FILL_ME> exactly once.
        """
        made = kdtool.Request(
            "1", prompt, self.max_tokens, self.stop, self.temperature, self.seed, top_p=self.top_p, top_k=self.top_k
        )
        if self.chat:
            return replace(made, prompt="", turns=(*turns, ("user", prompt)))
        if not self.fill:
            return made
        before, mark, after = prompt.partition(FILL_ME)
        if not mark or FILL_ME in after:
            raise kdtool.UsageError(
                f"a prompt to fill must contain {FILL_ME} once, but this one contains it {prompt.count(FILL_ME)} times"
            )
        return replace(made, prompt=before, suffix=after)


@dataclass
class Answer:
    """An answer, complete or in progress. `first` and `seconds` are times from the request to first and last piece.

    `reason` is the cause of its end if the model would have continued.

    `tokens_per_step` are new tokens for each forward pass where another model drafts them, else None.
    """

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    finish: str = ""
    reason: str = ""
    first: float = 0.0
    seconds: float = 0.0
    memory: int | None = None
    tokens_per_step: float | None = None
    _at_first: int = field(default=0, repr=False)
    _begun: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def rate(self) -> float:
        """Tokens per second after the first piece; 0 if nothing came after it."""
        seconds, tokens = self.seconds - self.first, self.tokens_out - self._at_first
        return tokens / seconds if tokens > 0 and seconds > 0 else 0.0

    def add(self, piece: kdtool.TextPiece) -> None:
        """Append a piece."""
        self.text += piece.text
        self.tokens_in, self.tokens_out = piece.tokens_in, piece.tokens_out
        self.finish, self.reason = piece.finish or "", piece.reason
        self.seconds = time.perf_counter() - self._begun
        if piece.tokens_out and not self.first:
            self.first, self._at_first = self.seconds, piece.tokens_out

    def figures(self) -> str:
        """Return speed, memory and the reason of the end in a line."""
        parts = [kdtool.count_of(self.tokens_out, "token"), f"first after {self.first:.2f} s"]
        if self.rate:
            parts.append(f"{self.rate:.1f} tokens/s")
        if self.tokens_per_step is not None:
            parts.append(f"{self.tokens_per_step:.2f} tokens per step")
        if self.memory:
            parts.append(f"{self.memory / 1e6:,.0f} MB")
        if self.reason:
            parts.append(f"stopped: {self.reason}")
        return ", ".join(parts)

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "text": self.text,
            "finish": self.finish,
            "reason": self.reason,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "seconds": round(self.seconds, 4),
            "first_token_seconds": round(self.first, 4),
            "tokens_per_second": round(self.rate, 2) or None,
            "memory": self.memory,
            **({} if self.tokens_per_step is None else {"tokens_per_step": round(self.tokens_per_step, 3)}),
        }


def answer(
    runtime: kdtool.Runtime,
    request: kdtool.Request,
    show: Callable[[str], object],
    stopped: Callable[[], bool] = lambda: False,
    into: Answer | None = None,
    *,
    raw: bool = False,
) -> Answer:
    """Generate an answer; `show` gets each new text. `into` is filled on the way, so that a stopped answer is kept.

    It stops at its natural end (`end_naturally`) unless it is `raw`.

    Raises:
        UsageError: the model does not support the request, or refuses it; the reason is in the message.
    """
    needed: kdtool.Ability = "converse" if request.turns else "continue" if request.suffix is None else "infill"
    if needed not in runtime.abilities:
        raise kdtool.UsageError(_UNABLE[needed])
    answered = into if into is not None else Answer()
    stream = runtime.stream(request)
    with closing(stream if raw else end_naturally(stream, request)) as pieces:  # type: ignore[type-var]  # generators
        for piece in pieces:
            answered.add(piece)
            if piece.finish == "refused":
                limit = (
                    piece.reason or f"its prompt of {piece.tokens_in:,} tokens leaves no room in the model's context"
                )
                raise kdtool.UsageError(f"the model refuses the request: {limit}")
            show(piece.text)
            if stopped():
                answered.finish = answered.finish or STOPPED
                break
    answered.memory = runtime.memory()
    answered.tokens_per_step = getattr(runtime, "tokens_per_step", None)  # where another model drafts
    return answered


_UNABLE: dict[str, str] = {
    "converse": "the model has no chat template, so it continues text but answers no questions; leave out --chat",
    "infill": "the model's tokenizer has no FIM tokens, so it continues text only; leave out --fim",
    "continue": "the model does not continue text; ask it in a chat: --chat",
}
