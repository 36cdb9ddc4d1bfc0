"""Forecast of money and time for `kdtool check`: nothing is sent, unless tokens shall be counted by the service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import kdtool
from kdtool_asking import has_answer, read_summary

from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._prices import Prices, Rates, Usage, dollars, picodollars, prices_of
from kdtool_teacher_claude._requests import Asked, estimate_tokens
from kdtool_teacher_claude._thinking import cache_minimum, thinks

__all__ = ["Purpose", "estimate"]

_COUNTED = 20
"""Requests that the service counts; the others are scaled by them."""
_PUBLISHED = {"requests": 1_000, "tokens in": 500_000, "tokens out": 100_000}
"""Limits a minute that Anthropic publishes for its first tier, as an example: they differ by account and model."""


@dataclass(frozen=True)
class Purpose:
    """The use of answers: each request of a sample stands for `times`, and for `most` times as many after rejections.

    `planned` are picodollars of earlier estimates of the same run; `say` shows a warning.
    """

    name: str
    times: float
    most: float
    planned: int
    say: Callable[[str], None]


def estimate(
    config: ClaudeConfig,
    requests: Iterable[Asked],
    purpose: Purpose,
    file: Path,
    count: Callable[[Asked], int] | None,
) -> Iterator[kdtool.Estimate]:
    """Yield what the answers cost, if each is as long as it may be.

    Args:
        config: the teacher's settings.
        requests: what will be asked, or a sample of it.
        purpose: the use of the answers.
        file: the ledger, which may not exist yet.
        count: counts input tokens by the service; None estimates them here.
    """
    prices, times = prices_of(config), purpose.times
    all_asked = {asked.key: asked for asked in requests}
    has = list(has_answer(file, all_asked))
    missing = [asked for asked, is_stored in zip(all_asked.values(), has, strict=True) if not is_stored]
    number, stored = round(times * len(missing)), round(times * sum(has))
    if not number:
        if stored:
            note = f"{purpose.name}: all {stored:,} answers are stored, and cost nothing"
            yield kdtool.Estimate("answers of claude", note=note)
        return
    parts = _tokens_by_rates(prices, missing, times, count)
    tokens, hour = _sum(parts.values()), config.cache == "1h"
    whole, by_batch = (
        sum(rates.price(part.plain, batched=batched) for rates, part in parts.items()) for batched in (False, True)
    )
    by_cache = sum(rates.price(part.with_cache(hour=hour), batched=False) for rates, part in parts.items())
    uses_batches = config.mode == "batches" or (config.mode == "auto" and number >= config.batch_from)
    expected = by_batch if uses_batches else by_cache
    notes = [
        f"{purpose.name}: {dollars(expected)} for {number:,} requests, {tokens.own + tokens.shared:,} tokens in, "
        f"{tokens.out:,} out at most",
        f"{dollars(whole)} plain, {dollars(by_cache)} cached, {dollars(by_batch)} batched",
        *([f"{stored:,} answers are stored already"] if stored else []),
        *_notes_on_cache(config, tokens),
        *_notes_on_thinking(config),
        _note_on_time(config, number, tokens, uses_batches=uses_batches),
        _note_on_budget(config, file, purpose, number, expected),
    ]
    yield kdtool.Estimate("answers of claude", picodollars=expected, note="; ".join(notes))


@dataclass(frozen=True)
class _Tokens:
    """Tokens of requests: of their messages, of the system texts that they share, out, and of different cached prefixes."""

    own: int
    shared: int
    out: int
    prefix: int

    @property
    def plain(self) -> Usage:
        """Tokens if each request reads everything again."""
        return Usage(self.own + self.shared, self.out)

    def with_cache(self, *, hour: bool) -> Usage:
        """Each prefix written to the cache once, for an hour or for five minutes, and read by the others."""
        if not self.prefix:
            return self.plain
        return Usage(
            self.own,
            self.out,
            cache_read=max(0, self.shared - self.prefix),
            cache_write=0 if hour else self.prefix,
            cache_write_hour=self.prefix if hour else 0,
        )


def _tokens_by_rates(
    prices: Prices, missing: Sequence[Asked], times: float, count: Callable[[Asked], int] | None
) -> dict[Rates, _Tokens]:
    """Return the tokens of all requests by their rates, which depend on the length of each."""
    scale = 1.0
    if count is not None:
        counted = missing[:_COUNTED]
        scale = sum(map(count, counted)) / sum(sum(estimate_parts(asked)) for asked in counted)
    by_rates: dict[Rates, list[Asked]] = {}
    for asked in missing:
        by_rates.setdefault(prices.rates(round(scale * sum(estimate_parts(asked)))), []).append(asked)
    return {rates: _tokens_of(some, times, scale) for rates, some in by_rates.items()}


def _sum(parts: Iterable[_Tokens]) -> _Tokens:
    return _Tokens(*(sum(values) for values in zip(*((p.own, p.shared, p.out, p.prefix) for p in parts), strict=True)))


def _tokens_of(missing: Sequence[Asked], times: float, scale: float) -> _Tokens:
    own, shared = zip(*(estimate_parts(asked) for asked in missing), strict=True)
    prefixes = {asked.prefix: tokens for asked, tokens in zip(missing, shared, strict=True) if asked.prefix}
    out = round(times * sum(asked.most_out for asked in missing))
    prefix = round(scale * sum(prefixes.values()))
    return _Tokens(round(times * scale * sum(own)), round(times * scale * sum(shared)), out, prefix)


def _notes_on_cache(config: ClaudeConfig, tokens: _Tokens) -> Iterator[str]:
    if config.system and not tokens.prefix and config.cache != "off":
        yield (
            f"`system` has about {estimate_tokens(config.system):,} tokens, below the {cache_minimum(config.model):,} from "
            "which this model caches: priced uncached"
        )


def _notes_on_thinking(config: ClaudeConfig) -> Iterator[str]:
    if thinks(config.model, config.thinking) and not config.thinking_tokens:
        yield (
            "the model may think, which counts towards the tokens out and cuts answers off: set thinking_tokens, or "
            "`thinking: off` if the model takes it"
        )


def _note_on_time(config: ClaudeConfig, number: int, tokens: _Tokens, *, uses_batches: bool) -> str:
    if uses_batches:
        return "up to 24 hours by batches"
    if config.requests_per_minute:
        return (
            f"{ceil(number / config.requests_per_minute):,} min at {config.requests_per_minute:,} requests per minute"
        )
    # Input that is read from the cache counts towards no limit.
    read = tokens.own + (tokens.prefix or tokens.shared)
    needed = {"requests": number, "tokens in": read, "tokens out": tokens.out}
    minutes = max(needed[name] / limit for name, limit in _PUBLISHED.items())
    limits = ", ".join(f"{limit:,} {name}" for name, limit in _PUBLISHED.items())
    return (
        f"the account's limits are learned from its first answer: {ceil(minutes):,} min at {limits} a minute, if all tokens "
        "are used (Claude Fable 5, tier Start, October 2026; a new account may have less)"
    )


def _note_on_budget(config: ClaudeConfig, file: Path, purpose: Purpose, number: int, expected: int) -> str:
    """Return a note on what is left of the budget; if that may not be enough, also show it as a warning."""
    ledger = read_summary(file) if file.exists() else None
    left = picodollars(config.budget_usd) - purpose.planned - (ledger.spent + ledger.held if ledger else 0)
    if purpose.most * expected <= left:
        return f"{dollars(left)} of budget_usd are left for it"
    paid = max(0, number * left // expected)
    most = ceil(purpose.most * number)
    problem = f"the {dollars(max(0, left))} of budget_usd that are left pay for {paid:,} of "
    if expected > left:
        problem += f"{number:,} requests: the run would stop there; raise budget_usd, or ask for less"
    else:
        problem += f"{most:,} requests, the most after rejections: the run may stop there; raise budget_usd to continue"
    purpose.say(f"warning: {purpose.name}: {problem}")
    return problem


def estimate_parts(asked: Asked) -> tuple[int, int]:
    """Return estimated tokens of a request's messages, and of the system text, which it shares with others."""
    system = asked.body.get("system", "")
    text = system if isinstance(system, str) else "".join(block["text"] for block in system)
    return sum(estimate_tokens(turn["content"]) + 4 for turn in asked.body["messages"]), estimate_tokens(text)
