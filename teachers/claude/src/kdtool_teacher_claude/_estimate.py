"""Forecast of money and time for `kdtool check`: nothing is sent, unless tokens shall be counted by the service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import kdtool
from kdtool_ledger import has_answer, read_summary

from kdtool_teacher_claude._config import ClaudeConfig
from kdtool_teacher_claude._prices import Usage, dollars, picodollars, prices_of
from kdtool_teacher_claude._requests import Asked, cache_minimum, estimate_tokens, prepare

__all__ = ["estimate"]

_COUNTED = 20
"""Requests that the service counts; the others are scaled by them."""


def estimate(
    config: ClaudeConfig,
    requests: Iterable[kdtool.Request],
    file: Path,
    count: Callable[[Asked], int] | None,
) -> Iterator[kdtool.Estimate]:
    """Yield what the answers cost, if each is as long as it may be.

    Args:
        config: the teacher's settings.
        requests: what will be asked.
        file: the ledger, which may not exist yet.
        count: counts input tokens by the service; None estimates them here.
    """
    prices = prices_of(config)
    all_asked = {asked.key: asked for asked in (prepare(config, request) for request in requests)}
    has = list(has_answer(file, all_asked))
    missing = [asked for asked, is_stored in zip(all_asked.values(), has, strict=True) if not is_stored]
    number, stored = len(missing), sum(has)
    if not number:
        yield kdtool.Estimate("answers of claude", note=f"all {stored:,} answers are in the ledger, and cost nothing")
        return
    own, shared = zip(*(estimate_parts(asked) for asked in missing), strict=True)
    scale = 1.0
    if count is not None:
        scale = sum(map(count, missing[:_COUNTED])) / (sum(own[:_COUNTED]) + sum(shared[:_COUNTED]))
    tokens_in, system_tokens = round(sum(own) * scale), round(sum(shared) * scale)
    tokens_out = sum(asked.request.max_tokens for asked in missing)
    prefixes = {asked.prefix: tokens for asked, tokens in zip(missing, shared, strict=True) if asked.prefix}
    hour = config.cache == "1h"
    written = round(sum(prefixes.values()) * scale)
    cached = Usage(
        tokens_in,
        tokens_out,
        cache_read=max(0, system_tokens - written) if prefixes else 0,
        cache_write=0 if hour else written,
        cache_write_hour=written if hour else 0,
    )
    plain = Usage(tokens_in + system_tokens, tokens_out)
    rates = prices.tiers[0][1]
    whole = rates.price(plain, batched=False)
    by_cache = rates.price(cached, batched=False) if prefixes else whole
    by_batch = rates.price(plain, batched=True)
    uses_batches = config.mode == "batches" or (config.mode == "auto" and number >= config.batch_from)
    expected = by_batch if uses_batches else by_cache
    notes = [
        f"{number:,} requests, {tokens_in + system_tokens:,} tokens in, {tokens_out:,} out at most",
        f"{dollars(whole)} plain, {dollars(by_cache)} cached, {dollars(by_batch)} batched",
    ]
    if stored:
        notes.append(f"{stored:,} answers are in the ledger already")
    if config.system and not prefixes and config.cache != "off":
        notes.append(
            f"`system` has about {estimate_tokens(config.system):,} tokens, below the {cache_minimum(config.model):,} from "
            "which this model caches: priced uncached"
        )
    if not uses_batches and config.requests_per_minute:
        notes.append(
            f"{number / config.requests_per_minute:,.0f} minutes at {config.requests_per_minute:,} requests a minute"
        )
    if uses_batches:
        notes.append("up to 24 hours by batches")
    budget, ledger = picodollars(config.budget_usd), read_summary(file) if file.exists() else None
    spent = ledger.spent + ledger.held if ledger else 0
    if spent + expected > budget:
        notes.append(
            f"more than budget_usd allows ({dollars(max(0, budget - spent))} are left): the run would stop there"
        )
    yield kdtool.Estimate("answers of claude", picodollars=expected, note="; ".join(notes))


def estimate_parts(asked: Asked) -> tuple[int, int]:
    """Return estimated tokens of a request's messages, and of the system text, which it shares with others."""
    system = asked.body.get("system", "")
    text = system if isinstance(system, str) else "".join(block["text"] for block in system)
    return sum(estimate_tokens(turn["content"]) + 4 for turn in asked.body["messages"]), estimate_tokens(text)
