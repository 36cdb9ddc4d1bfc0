"""Requests as they are sent, messages as answers, and the price of each.

Prices are integers in picodollars (10⁻¹² dollars) per token, so that sums equal the bill.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import kdtool
from kdtool_measuring import About, cut_at_stops, readable

from kdtool_teacher_claude._config import ClaudeConfig, cache_minimum, fields_of, thinks

_OVERHEAD, _OVERHEAD_OF_TURN = 64, 16
"""Tokens beyond the text's bytes, at most: of a request, of each turn."""
_CHARACTERS_PER_TOKEN = 3.5
_ENDED = {"end_turn", "stop_sequence"}
_CUT_OFF = {"max_tokens", "model_context_window_exceeded", "pause_turn"}


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
        "messages": [{"role": role, "content": readable(text)} for role, text in turns],
    }
    if stops := [
        readable(stop) for stop in request.stop if stop.strip()
    ]:  # others are refused; answers are cut at them
        content["stop_sequences"] = stops
    text = readable("\n\n".join(system))
    marked = bool(text) and estimate_tokens(text) >= cache_minimum(config.model)
    if marked:
        content["system"] = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
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
    text = readable("".join(str(block.get("text", "")) for block in blocks))
    price = prices.price(usage, batched=batched)
    finish = _finish(reason)
    why = f"stop_reason is {reason[:60]!r}" if finish == "refused" and reason != "refusal" else ""
    answer = kdtool.TextAnswer("", text, finish, usage.tokens_in, usage.output, price, why)
    return json.dumps(vars(answer)), usage, price


def restore(stored: str, request: kdtool.Request) -> kdtool.TextAnswer:
    """Return a stored answer to a request, cut at its stops."""
    answer = replace(kdtool.TextAnswer(**json.loads(stored)), id=request.id)
    text = cut_at_stops(answer.text, request)
    return answer if text == answer.text else replace(answer, text=text, finish="stop", reason="")


def refusal(request: kdtool.Request, reason: str) -> kdtool.TextAnswer:
    """Return the answer to a request that got none; it is not stored."""
    return kdtool.TextAnswer(request.id, "", "refused", 0, 0, reason=reason)


def _finish(reason: str) -> Literal["stop", "length", "refused"]:
    return "stop" if reason in _ENDED else "length" if reason in _CUT_OFF else "refused"


_PER_DOLLAR = 10**12
_PER_MILLION_TOKENS = 10**6
_MOST_TOKENS = 10**9
"""Far more than any model reads or writes; a larger count is a mistake of the service."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, by price. `input` excludes cached ones; `output` includes those of `thinking`."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    thinking: int = 0

    @property
    def tokens_in(self) -> int:
        """All input tokens."""
        return self.input + self.cache_read + self.cache_write


@dataclass(frozen=True)
class Rates:
    """Picodollars per token."""

    input: int
    output: int
    cache_read: int
    cache_write: int

    def price(self, usage: Usage, *, batched: bool) -> int:
        """Return the price of an answer; a batch costs half, rounded up."""
        whole = (
            usage.input * self.input
            + usage.output * self.output
            + usage.cache_read * self.cache_read
            + usage.cache_write * self.cache_write
        )
        return (whole + 1) // 2 if batched else whole


@dataclass(frozen=True)
class Prices:
    """Rates by the number of input tokens above which they apply to the whole request, from 0 upwards."""

    tiers: tuple[tuple[int, Rates], ...]

    def price(self, usage: Usage, *, batched: bool) -> int:
        """Return the price of an answer in picodollars."""
        return self.rates(usage.tokens_in).price(usage, batched=batched)

    def rates(self, tokens_in: int) -> Rates:
        """Return the rates of a request with this number of input tokens."""
        return [rates for start, rates in self.tiers if start == 0 or tokens_in > start][-1]

    def bound(self, tokens_in: int, tokens_out: int, *, marked: bool, batched: bool) -> int:
        """Return the most that an answer can cost; input that is `marked` for the cache may be charged as written to it."""
        usage = Usage(0, tokens_out, cache_write=tokens_in) if marked else Usage(tokens_in, tokens_out)
        return max(
            rates.price(usage, batched=batched) for start, rates in self.tiers if start == 0 or tokens_in > start
        )


def prices_of(config: ClaudeConfig, now: datetime | None = None) -> Prices:
    """Return the prices of the model.

    Raises:
        UsageError: unknown model price.
    """
    from genai_prices.data import providers

    (anthropic,) = (provider for provider in providers if provider.id == "anthropic")
    model = anthropic.find_model(config.model)
    if model is None:
        raise kdtool.UsageError(
            f"model: the price of {config.model!r} is unknown, and nothing is asked without it: name a known model, or "
            "install a newer genai-prices"
        )
    return _prices_of_table(model.get_prices(now or datetime.now(UTC)))


def _prices_of_table(table: Any) -> Prices:
    names = {
        "input": "input_mtok",
        "output": "output_mtok",
        "cache_read": "cache_read_mtok",
        "cache_write": "cache_write_mtok",
    }
    given = {name: getattr(table, attribute, None) for name, attribute in names.items()}
    starts = {0, *(tier.start for price in given.values() for tier in getattr(price, "tiers", ()))}

    def rates(start: int) -> Rates:
        values = {name: _price_at(price, start) for name, price in given.items() if price is not None}
        cached = {"cache_read": values["input"] / 10, "cache_write": values["input"] * Decimal("1.25")}
        return Rates(**{name: _per_token(value) for name, value in {**cached, **values}.items()})

    return Prices(tuple((start, rates(start)) for start in sorted(starts)))


def _price_at(price: Any, start: int) -> Decimal:
    """Return a price of the table at the tier that begins at `start` tokens."""
    found: Decimal = getattr(price, "base", price)
    for tier in getattr(price, "tiers", ()):
        if tier.start <= start:
            found = tier.price
    return found


def _per_token(per_million: Decimal) -> int:
    """Return picodollars per token, rounded up, so that no sum is below the bill."""
    return -int(-per_million * _PER_DOLLAR // _PER_MILLION_TOKENS)


def picodollars(amount: Decimal) -> int:
    """Return dollars as picodollars, rounded down: a budget is never exceeded."""
    return int(amount * _PER_DOLLAR)


def usage_of(usage: object) -> Usage | None:
    """Return the counts of a message's `usage`; None if they are missing or wrong."""
    if not isinstance(usage, Mapping):
        return None
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    counts = [_read_count(usage, name) for name in names]
    details = usage.get("output_tokens_details")
    thinking = max(0, _read_count(details, "thinking_tokens")) if isinstance(details, Mapping) else 0
    if min(counts) < 0 or usage.get("output_tokens") is None:
        return None
    return Usage(counts[0], counts[1], counts[2], counts[3], min(thinking, counts[1]))


def _read_count(found: Mapping[str, Any], name: str) -> int:
    """Return a count, 0 if it is left out, -1 if it is not a count of tokens of one request."""
    value = found.get(name)
    if value is None:
        return 0
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else -1
