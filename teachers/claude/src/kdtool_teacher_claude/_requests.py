"""Requests as they are sent, and messages as answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import kdtool
from kdtool_asking import About

from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._prices import Prices, Usage, usage_of
from kdtool_teacher_claude._thinking import cache_minimum, fields_of, thinks

__all__ = [
    "Asked",
    "UnreadableError",
    "estimate_tokens",
    "prepare",
    "read_message",
    "refusal",
    "restore",
]

_OVERHEAD, _OVERHEAD_OF_TURN = 64, 16
"""Tokens beyond the text's bytes, at most: of a request, of each turn."""
_CHARACTERS_PER_TOKEN = 3.5
_ENDED = {"end_turn", "stop_sequence"}
_CUT_OFF = {"max_tokens", "model_context_window_exceeded", "pause_turn"}
_SURROGATE = re.compile("[\ud800-\udfff]")


class UnreadableError(Exception):
    """An answer came, and is not what the API describes: it may have been charged."""


@dataclass(frozen=True)
class Asked:
    """A request with its body, its key in the ledger, and the most tokens that its input can have.

    `prefix` identifies the text that is marked for the cache, "" for none.
    """

    request: kdtool.Request
    body: Mapping[str, Any]
    key: str
    most_in: int
    prefix: str
    about: About

    @property
    def most_out(self) -> int:
        """The most tokens of output, thinking included."""
        return int(self.body["max_tokens"])

    @property
    def estimate_in(self) -> int:
        """Estimated input tokens that are not read from the cache."""
        system = "" if self.prefix else self.body.get("system", "")
        return estimate_tokens(system) + sum(estimate_tokens(message["content"]) for message in self.body["messages"])


def prepare(config: ClaudeConfig, request: kdtool.Request, key: str, purpose: str) -> Asked:
    """Return a request as it is sent, with its key in the store and the use of its answer.

    The API takes neither temperature nor seed.

    Raises:
        UsageError: the request begins the answer, which the API refuses.
    """
    if request.turns and request.prompt:
        raise kdtool.UsageError("a request cannot begin Claude's answer: send only conversations, or other prompts")
    turns = list(request.turns)
    system = [config.system] if config.system else []
    while turns and turns[0][0] == "system":
        system.append(turns.pop(0)[1])
    room = config.thinking_tokens if thinks(config.model, config.thinking) else 0
    content: dict[str, Any] = {
        "model": config.model,
        **fields_of(config.model, config.thinking, config.effort),
        "max_tokens": request.max_tokens + room,
        "messages": [{"role": role, "content": _readable(text)} for role, text in turns],
    }
    if stops := [
        _readable(stop) for stop in request.stop if stop.strip()
    ]:  # others are refused; answers are cut at them
        content["stop_sequences"] = stops
    text = _readable("\n\n".join(system))
    marked = bool(text) and config.cache != "off" and estimate_tokens(text) >= cache_minimum(config.model)
    if marked:
        control = {"type": "ephemeral"} if config.cache == "5m" else {"type": "ephemeral", "ttl": "1h"}
        content["system"] = [{"type": "text", "text": text, "cache_control": control}]
    elif text:
        content["system"] = text
    size = len(text.encode()) + sum(len(message["content"].encode()) for message in content["messages"])
    most_in = size + _OVERHEAD + _OVERHEAD_OF_TURN * len(turns)
    prefix = hashlib.sha256(text.encode()).hexdigest() if marked else ""
    return Asked(request, content, key, most_in, prefix, About(config.model, purpose, request.id))


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has."""
    return round(len(text) / _CHARACTERS_PER_TOKEN)


def read_message(message: object, prices: Prices, *, batched: bool) -> tuple[str, Usage, int]:
    """Return an answer as it is stored (without id, and not yet cut at stops), its tokens, its price in picodollars.

    Raises:
        UnreadableError: text, counts or the reason of its end are missing.
    """
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        raise UnreadableError("the answer is not a message")
    usage, reason = usage_of(message.get("usage")), message.get("stop_reason")
    if usage is None:
        raise UnreadableError("the answer does not say how many tokens it took")
    if not isinstance(reason, str):
        raise UnreadableError("the answer was cut off")
    blocks = [block for block in message["content"] if isinstance(block, Mapping) and block.get("type") == "text"]
    text = _readable("".join(str(block.get("text", "")) for block in blocks))
    price = prices.price(usage, batched=batched)
    finish = _finish(reason)
    why = f"stop_reason is {reason[:60]!r}" if finish == "refused" and reason != "refusal" else ""
    answer = kdtool.TextAnswer("", text, finish, usage.tokens_in, usage.output, price, why)
    return json.dumps(vars(answer)), usage, price


def restore(stored: str, request: kdtool.Request) -> kdtool.TextAnswer:
    """Return a stored answer to a request, cut at its stops."""
    answer = replace(kdtool.TextAnswer(**json.loads(stored)), id=request.id)
    stops = [at for stop in request.stop if (at := answer.text.find(stop)) >= 0]
    return replace(answer, text=answer.text[: min(stops)], finish="stop", reason="") if stops else answer


def refusal(request: kdtool.Request, reason: str) -> kdtool.TextAnswer:
    """Return the answer to a request that got none; it is not stored."""
    return kdtool.TextAnswer(request.id, "", "refused", 0, 0, reason=reason)


def _finish(reason: str) -> Literal["stop", "length", "refused"]:
    return "stop" if reason in _ENDED else "length" if reason in _CUT_OFF else "refused"


def _readable(text: str) -> str:
    """Return a text that can be sent and stored: half a character is U+FFFD."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
