"""Prices in picodollars (10⁻¹² dollars) per token: integers, so that sums equal the bill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import kdtool

from kdtool_teacher_claude._config import ClaudeConfig, PricesConfig

__all__ = ["Prices", "Rates", "Usage", "dollars", "picodollars", "prices_of", "usage_of"]

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
    cache_write_hour: int = 0
    thinking: int = 0

    @property
    def tokens_in(self) -> int:
        """All input tokens."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_hour


@dataclass(frozen=True)
class Rates:
    """Picodollars per token."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    cache_write_hour: int

    def price(self, usage: Usage, *, batched: bool) -> int:
        """Return the price of an answer; a batch costs half, rounded up."""
        whole = (
            usage.input * self.input
            + usage.output * self.output
            + usage.cache_read * self.cache_read
            + usage.cache_write * self.cache_write
            + usage.cache_write_hour * self.cache_write_hour
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
        return max(
            rates.price(Usage(tokens_in, tokens_out), batched=batched)
            if not marked
            else max(
                rates.price(Usage(0, tokens_out, cache_write=tokens_in), batched=batched),
                rates.price(Usage(0, tokens_out, cache_write_hour=tokens_in), batched=batched),
            )
            for start, rates in self.tiers
            if start == 0 or tokens_in > start
        )


def prices_of(config: ClaudeConfig, now: datetime | None = None) -> Prices:
    """Return the prices of the model.

    Raises:
        UsageError: unknown model price.
    """
    if config.prices is not None:
        return Prices(((0, _of_config(config.prices)),))
    from genai_prices.data import providers

    (anthropic,) = (provider for provider in providers if provider.id == "anthropic")
    model = anthropic.find_model(config.model)
    if model is None:
        raise kdtool.UsageError(
            f"model: the price of {config.model!r} is unknown, and nothing is asked without it: write a known model, or its "
            "prices in dollars per million tokens: prices: {input: 3, output: 15}"
        )
    return _of_table(model.get_prices(now or datetime.now(UTC)))


def _of_config(prices: PricesConfig) -> Rates:
    def rate(value: Decimal | None, default: Decimal) -> int:
        return _per_token(default if value is None else value)

    return Rates(
        input=_per_token(prices.input),
        output=_per_token(prices.output),
        cache_read=rate(prices.cache_read, prices.input / 10),
        cache_write=rate(prices.cache_write, prices.input * Decimal("1.25")),
        cache_write_hour=rate(prices.cache_write_hour, prices.input * 2),
    )


def _of_table(table: Any) -> Prices:
    names = {
        "input": "input_mtok",
        "output": "output_mtok",
        "cache_read": "cache_read_mtok",
        "cache_write": "cache_write_mtok",
        "cache_write_hour": "cache_write_1h_mtok",
    }
    given = {name: getattr(table, attribute, None) for name, attribute in names.items()}
    starts = {0, *(tier.start for price in given.values() for tier in getattr(price, "tiers", ()))}

    def rates(start: int) -> Rates:
        values = {name: _at(price, start) for name, price in given.items() if price is not None}
        return _of_config(PricesConfig(**values))

    return Prices(tuple((start, rates(start)) for start in sorted(starts)))


def _at(price: Any, start: int) -> Decimal:
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


def dollars(amount: int) -> str:
    """Return picodollars as text, such as $1.23 or $0.0012."""
    value = Decimal(amount) / _PER_DOLLAR
    return f"${value:,.2f}" if value >= 1 or not value else f"${value:.4f}"


def usage_of(usage: object) -> Usage | None:
    """Return the counts of a message's `usage`; None if they are missing or wrong."""
    if not isinstance(usage, Mapping):
        return None
    written, by_length = _count(usage, "cache_creation_input_tokens"), usage.get("cache_creation")
    hour = _count(by_length, "ephemeral_1h_input_tokens") if isinstance(by_length, Mapping) else 0
    counts = [_count(usage, name) for name in ("input_tokens", "output_tokens", "cache_read_input_tokens")]
    thinking = _thinking_of(usage.get("output_tokens_details"))
    if min(*counts, written, hour, written - hour) < 0 or usage.get("output_tokens") is None:
        return None
    return Usage(counts[0], counts[1], counts[2], written - hour, hour, min(thinking, counts[1]))


def _thinking_of(details: object) -> int:
    return max(0, _count(details, "thinking_tokens")) if isinstance(details, Mapping) else 0


def _count(found: Mapping[str, Any], name: str) -> int:
    """Return a count, 0 if it is left out, -1 if it is not a count of tokens of one request."""
    value = found.get(name)
    if value is None:
        return 0
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else -1
