"""Money and time of a run: the forecast for `kdtool check`, and a line every half minute while the run asks.

A forecast sends nothing. Each evaluator is given a teacher that notes its requests and answers nothing, so that their price
is known before the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import kdtool
from kdtool_measuring import Ledger, has_answer, read_summary

from kdtool_teacher_claude._config import ClaudeConfig, cache_minimum, thinks
from kdtool_teacher_claude._requests import Asked, Usage, dollars, estimate_tokens, picodollars, prices_of

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
    config: ClaudeConfig, requests: Iterable[Asked], purpose: Purpose, file: Path
) -> Iterator[kdtool.Estimate]:
    """Yield what the answers cost, if each is as long as it may be.

    Args:
        config: the teacher's settings.
        requests: what will be asked, or a sample of it.
        purpose: the use of the answers.
        file: the ledger, which may not exist yet.
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
    plain, cached, writes = list[Usage](), list[Usage](), dict[str, int]()
    for asked in missing:
        asked_in, shared = estimate_parts(asked)
        plain.append(Usage(asked_in + shared, asked.most_out))
        cached.append(Usage(asked_in, asked.most_out, cache_read=shared) if asked.prefix else plain[-1])
        if asked.prefix:  # is written to the cache once, and read by the other requests
            kind = "cache_write_hour" if config.cache == "1h" else "cache_write"
            write = prices.price(Usage(asked_in, asked.most_out, **{kind: shared}), batched=False)
            writes[asked.prefix] = write - prices.price(cached[-1], batched=False)

    def price(usages: Iterable[Usage], *, batched: bool = False) -> int:
        return round(times * sum(prices.price(usage, batched=batched) for usage in usages))

    whole, by_batch, by_cache = price(plain), price(plain, batched=True), price(cached) + sum(writes.values())
    tokens_in = round(times * sum(usage.input for usage in plain))
    tokens_out = round(times * sum(usage.output for usage in plain))
    expected = by_batch if config.mode == "batches" else by_cache
    notes = [
        f"{purpose.name}: {dollars(expected)} for {number:,} requests, {tokens_in:,} tokens in, {tokens_out:,} out "
        "at most",
        f"{dollars(whole)} plain, {dollars(by_cache)} cached, {dollars(by_batch)} batched",
        *([f"{stored:,} answers are stored already"] if stored else []),
        *_notes_on_cache(config, is_marked=bool(writes)),
        *_notes_on_thinking(config),
        _note_on_time(config, number, round(times * sum(usage.input for usage in cached)), tokens_out),
        _note_on_budget(config, file, purpose, number, expected),
    ]
    yield kdtool.Estimate("answers of claude", picodollars=expected, note="; ".join(notes))


def _notes_on_cache(config: ClaudeConfig, *, is_marked: bool) -> Iterator[str]:
    if config.system and not is_marked and config.cache != "off":
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


def _note_on_time(config: ClaudeConfig, number: int, tokens_in: int, tokens_out: int) -> str:
    if config.mode == "batches":
        return "up to 24 hours by batches"
    if config.requests_per_minute:
        return (
            f"{ceil(number / config.requests_per_minute):,} min at {config.requests_per_minute:,} requests per minute"
        )
    # Input that is read from the cache counts towards no limit, and is not in `tokens_in`.
    needed = {"requests": number, "tokens in": tokens_in, "tokens out": tokens_out}
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


_TEXT = "def increment(number):\n    return number + 1\n\n\n" * 40


def requests_of(
    run: kdtool.RunInfo, evaluator: str, teacher: str, noted: list[kdtool.Request]
) -> list[kdtool.Request] | str:
    """Return what an evaluator asks a teacher, or why that is not known.

    Args:
        run: the run that is checked.
        evaluator: its name in the recipe.
        teacher: name of the teacher, which meanwhile puts its requests into `noted` and refuses them.
        noted: is overwritten.
    """
    component = run.component(evaluator, kdtool.Evaluator)
    if component.asks:
        return "it asks other teachers, too"
    noted.clear()
    example = kdtool.Example("text", kdtool.Text(_TEXT), "test", language="python")
    texts: Any = SimpleNamespace(examples=lambda split: iter([replace(example, split=split)]))
    try:
        with TemporaryDirectory() as folder:
            hooks: Any = _Quiet(run.hook)
            quiet = replace(run, hook=hooks, texts=texts, folder=Path(folder), say=lambda _: None, stage="scores")
            list(component.kdtool_evaluate(quiet, [kdtool.Subject(teacher, "teacher")]))
    except Exception as error:  # what the evaluator lacks here may exist in the run
        return f"it fails before the run ({type(error).__name__})"
    if noted and (component.reads_text or component.measures_jointly):
        return "its number depends on the run's text or speed"
    return list(noted)


class _Quiet:
    """The hooks of a run, without its progress."""

    def __init__(self, hooks: Any) -> None:
        self._hooks = hooks

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name == "kdtool_progress" else getattr(self._hooks, name)


_SECONDS = 30.0
_RARER = 0.1
"""Part of the time so far that passes between two lines while only batches are under way."""


class Progress:
    """Counts answers, and shows money and speed.

    Args:
        ledger: where money is counted.
        budget: picodollars.
        say: shows a line.
    """

    def __init__(self, ledger: Ledger, budget: int, say: Callable[[str], None]) -> None:
        self._ledger, self._budget, self._say = ledger, budget, say
        self._begun = self._shown = time.monotonic()
        self._before = ledger.spent
        self.answers = self.stored = self.asked_again = 0
        self._input = self._cached = self._output = self._thinking = 0

    def add(self, usage: Usage) -> None:
        """Count an answer that was paid for."""
        self.answers += 1
        self._input += usage.tokens_in
        self._cached += usage.cache_read
        self._output += usage.output
        self._thinking += usage.thinking
        self._show(_SECONDS)

    def wait(self) -> None:
        """Show a line while batches are waited for, ever more rarely."""
        self._show(max(_SECONDS, _RARER * (time.monotonic() - self._begun)))

    def _show(self, seconds: float) -> None:
        """Show a line if the last one is at least `seconds` old."""
        if time.monotonic() - self._shown >= seconds:
            self._shown = time.monotonic()
            self._say(self.line())

    def line(self) -> str:
        """Return figures so far: money of the ledger, speed and cache of this run."""
        minutes = max(time.monotonic() - self._begun, 1.0) / 60
        spent = self._ledger.spent
        parts = [
            f"{self.answers:,} answers",
            f"{dollars(spent)} spent and {dollars(self._ledger.on_hold)} reserved of {dollars(self._budget)}",
            f"{(self._input + self._output) / minutes:,.0f} tokens/min",
            f"{self._cached / max(1, self._input):.0%} of the input tokens from the cache",
        ]
        if self._thinking:
            parts.append(f"{self._thinking / self._output:.0%} of the output tokens for thinking")
        if rate := (spent - self._before) / minutes:
            parts.append(f"the budget lasts {(self._budget - spent) / rate:,.0f} min at this speed")
        return "claude: " + ", ".join(parts)

    def end(self) -> None:
        """Show the final figures, if anything was asked."""
        if self.answers:
            self._say(self.line())
        if self.stored:
            self._say(f"claude: {self.stored:,} answers are in {self._ledger.path.name} and are not paid for again")
        if self._ledger.mismatches:
            self._say(
                f"claude: {self._ledger.mismatches:,} answers in {self._ledger.path.name} were changed on disk and are "
                "bought again: their text does not match its hash"
            )
        if self.asked_again:
            self._say(
                f"claude: {self.asked_again:,} requests were asked again, since their outcome is unknown: perhaps charged "
                "twice; the ledger lists them"
            )
