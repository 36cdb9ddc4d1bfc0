"""Money and time of a run: the forecast for `kdtool check`, and figures at the end.

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

from kdtool_teacher_claude._config import ClaudeConfig, cache_minimum, read_key, thinks
from kdtool_teacher_claude._requests import Asked, Usage, estimate_tokens, picodollars, prices_of


@dataclass(frozen=True)
class Purpose:
    """The use of answers: each request of a sample stands for `times`, and for `most` times as many after rejections.

    `say` shows a warning. Of earlier estimates of the same run, `planned` are the expected picodollars, and `reserved` the
    most.
    """

    name: str
    times: float
    most: float
    say: Callable[[str], None]
    planned: int
    reserved: int


def estimate(
    config: ClaudeConfig, requests: Iterable[Asked], purpose: Purpose, file: Path
) -> Iterator[kdtool.Estimate]:
    """Yield what the answers cost if each is as long as it may be, and at most: with rejections, but within the budget.

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
            note = f"{purpose.name}: nothing to pay, with {kdtool.count_of(stored, 'stored answer')}"
            yield kdtool.Estimate("answers of claude", note=note)
        return
    batched = config.mode == "batches"
    usages, writes = list[Usage](), dict[str, int]()
    for asked in missing:
        asked_in, shared = estimate_parts(asked)
        if batched or not asked.prefix:
            usages.append(Usage(asked_in + shared, asked.most_out))
        else:  # it is written to the cache once, and read by the other requests
            usages.append(Usage(asked_in, asked.most_out, cache_read=shared))
            write = prices.price(Usage(asked_in, asked.most_out, cache_write=shared), batched=False)
            writes[asked.prefix] = write - prices.price(usages[-1], batched=False)
    whole = times * sum(prices.price(usage, batched=batched) for usage in usages)
    expected = round(whole) + sum(writes.values())
    tokens_in = round(times * sum(usage.tokens_in for usage in usages))
    tokens_out = round(times * sum(usage.output for usage in usages))
    bounds = (
        prices.bound(asked.most_in, asked.most_out, marked=bool(asked.prefix), batched=batched) for asked in missing
    )
    ledger = read_summary(file) if file.exists() else None
    left = picodollars(config.budget_usd) - (ledger.spent + ledger.held if ledger else 0)
    most = max(0, min(ceil(purpose.most * times * sum(bounds)), left - purpose.reserved))
    notes = [
        f"{purpose.name}: {kdtool.dollars(expected)} for {kdtool.count_of(number, 'request')}, "
        f"{tokens_in:,} tokens in, {tokens_out:,} out at most",
        *([f"{kdtool.count_of(stored, 'answer')} stored already"] if stored else []),
        *_notes_on_settings(config, is_marked=any(asked.prefix for asked in missing)),
        _note_on_budget(left - purpose.planned, purpose, number, expected),
    ]
    yield kdtool.Estimate(
        "answers of claude",
        picodollars=expected,
        most_picodollars=most,
        note="; ".join(notes),
        lacks=_missing_key(config),
        waiting_seconds=86400 * batched,
    )


def _missing_key(config: ClaudeConfig) -> str:
    try:
        read_key(config)
    except kdtool.AuthenticationError as error:
        return str(error)
    return ""


def _notes_on_settings(config: ClaudeConfig, *, is_marked: bool) -> Iterator[str]:
    if config.system and not is_marked:
        yield (
            f"`system` has about {estimate_tokens(config.system):,} tokens, below the {cache_minimum(config.model):,} from "
            "which this model caches: priced uncached"
        )
    if thinks(config.model, config.thinking) and not config.thinking_tokens:
        yield (
            "the model may think, which counts towards the tokens out and cuts answers off: set thinking_tokens, or "
            "`thinking: off` if the model takes it"
        )


def _note_on_budget(left: int, purpose: Purpose, number: int, expected: int) -> str:
    """Return a note on what is left of the budget; warn if that may not be enough."""
    if purpose.most * expected > left:
        paid = max(0, number * left // expected)
        problem = f"the {kdtool.dollars(max(0, left))} of budget_usd that are left pay for {paid:,} of "
        if expected > left:
            problem += f"{kdtool.count_of(number, 'request')}: the run would stop; raise budget_usd, or ask for less"
        else:
            most = ceil(purpose.most * number)
            problem += f"{most:,} requests, the most after rejections: the run may stop; raise budget_usd to continue"
        purpose.say(f"warning: {purpose.name}: {problem}")
        return f"may exceed the {kdtool.dollars(max(0, left))} of budget_usd that are left"
    return f"{kdtool.dollars(left)} of budget_usd are left for it"


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


class Progress:
    """Counts answers, and shows money and speed at the end.

    Args:
        ledger: where money is counted.
        budget: picodollars.
        say: shows a line.
    """

    def __init__(self, ledger: Ledger, budget: int, say: Callable[[str], None]) -> None:
        self._ledger, self._budget, self._say = ledger, budget, say
        self._begun = time.monotonic()
        self.answers = self.stored = self.asked_again = 0
        self._tokens = 0

    def add(self, usage: Usage) -> None:
        """Count an answer that was paid for."""
        self.answers += 1
        self._tokens += usage.tokens_in + usage.output

    def line(self) -> str:
        """Return figures so far: money of the ledger, and speed of this run."""
        minutes = max(time.monotonic() - self._begun, 1.0) / 60
        money = [kdtool.dollars(each) for each in (self._ledger.spent, self._ledger.on_hold, self._budget)]
        return (
            f"claude: {kdtool.count_of(self.answers, 'new answer')} at {self._tokens / minutes:,.0f} tokens/min; "
            f"{money[0]} spent in all and {money[1]} reserved, of {money[2]}"
        )

    def end(self) -> None:
        """Show the final figures, if anything was asked."""
        if self.answers:
            self._say(self.line())
        if self.stored:
            self._say(f"claude: {kdtool.count_of(self.stored, 'answer')} in the ledger: not paid for again")
        if self._ledger.mismatches:
            self._say(
                f"claude: {kdtool.count_of(self._ledger.mismatches, 'answer')} in {self._ledger.path.name} changed on disk: "
                "buying again what does not match its hash"
            )
        if self.asked_again:
            self._say(
                f"claude: sent {kdtool.count_of(self.asked_again, 'request')} of unknown outcome again: perhaps charged "
                "twice; see the ledger"
            )
