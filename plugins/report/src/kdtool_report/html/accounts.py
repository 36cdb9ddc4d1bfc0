"""Money and rejections that components account for (`kdtool_account`): spent, per row, break-even.

Amounts are whole picodollars until they are printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import kdtool

from kdtool_report.html.answers import cut
from kdtool_report.html.wording import Subjects, count, duration, money, own_name

_PER_DOLLAR = 10**12
_FIGURES = ("requests", "rows", "tokens_in", "tokens_out", "picodollars", "unknown_requests", "unknown_picodollars")


@dataclass(frozen=True)
class AccountRow:
    """Money of one component, as text; "" if a figure does not apply."""

    name: str
    requests: str
    spent: str
    mean: str
    rows: str
    a_row: str
    unknown: str


@dataclass(frozen=True)
class Money:
    """Money of a run: a row for each component, and the break-even with its assumptions."""

    total: str
    a_row: str
    rows: tuple[AccountRow, ...]
    break_even: str
    assumed: str


@dataclass(frozen=True)
class Rejections:
    """Candidates that a component rejected: reasons with counts, and samples as (reason, id, text)."""

    name: str
    reasons: tuple[tuple[str, str], ...]
    samples: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class _Account:
    """The figures of a component; `rows` is None for a teacher, whose money all its runs share."""

    requests: int
    rows: int | None
    tokens_in: int
    tokens_out: int
    picodollars: int
    unknown_requests: int
    unknown_picodollars: int


@dataclass(frozen=True)
class _Work:
    """Training of one student: its mean time over seeds, and the price per hour in picodollars, None if it is unknown."""

    seconds: float
    per_hour: int | None

    @property
    def price(self) -> int:
        """Picodollars."""
        return round((self.per_hour or 0) * self.seconds / 3600)

    def __str__(self) -> str:
        if self.per_hour is None:
            return f"{duration(self.seconds)} of training are not priced (set reporter.dollars_per_hour)"
        price = f"{money(self.price)} for {duration(self.seconds)} of training one student"
        return f"{price}, at {money(self.per_hour)} an hour"


def rejections(data: Mapping[str, Any]) -> list[Rejections]:
    """Return what components rejected, in the order of the recipe."""
    with_rejections = {name: account for name, account in data.get("accounts", {}).items() if account.get("rejected")}
    return [
        Rejections(
            name,
            tuple((cut(reason), count(number)) for reason, number in account["rejected"].items()),
            tuple((cut(shown["reason"]), shown["id"], cut(shown["text"])) for shown in account.get("samples", ())),
        )
        for name, account in with_rejections.items()
    ]


def money_of(results: kdtool.Results, subjects: Subjects, dollars_per_hour: Decimal | None) -> Money | None:
    """Return the money of a run; None if nothing was paid for."""
    accounts = {
        name: _Account(**{figure: plain.get(figure, None if figure == "rows" else 0) for figure in _FIGURES})
        for name, plain in results.data.get("accounts", {}).items()
        if plain.get("picodollars") or plain.get("unknown_picodollars")
    }
    bought = [account for account in accounts.values() if account.rows is not None and account.picodollars]
    if not accounts:
        return None
    answers, rows = sum(account.picodollars for account in bought), sum(account.rows or 0 for account in bought)
    students = [arm for arm in results.arms if arm.arm == "student"]
    seconds = sum(phase.seconds for arm in students for phase in arm.phases.values()) / max(1, len(students))
    work = _Work(seconds, None if dollars_per_hour is None else int(dollars_per_hour * _PER_DOLLAR))
    return Money(
        money(answers) if bought else "",
        money(-(-answers // rows)) if rows else "",
        tuple(_rows(accounts, results.data["accounts"])),
        *(_break_even(bought, answers, work, _fastest(results, subjects)) if bought else ("", "")),
    )


def _rows(accounts: Mapping[str, _Account], plain: Mapping[str, Mapping[str, Any]]) -> Iterator[AccountRow]:
    """Yield a row for each component; a teacher's is followed by one for each use of its answers, such as an evaluator."""
    for name, account in accounts.items():
        yield _row(name, account)
        for purpose, (requests, spent) in plain[name].get("purposes", {}).items():
            mean = money(-(-spent // requests))
            yield AccountRow(
                f"{name}, for {purpose or 'unknown uses'}", count(requests), money(spent), mean, "", "", ""
            )


def _row(name: str, account: _Account) -> AccountRow:
    shared, unknown = account.rows is None, "none"
    if account.unknown_requests:
        unknown = f"{count(account.unknown_requests)}, at most {money(account.unknown_picodollars)}"
    return AccountRow(
        f"{name}, all runs that share its ledger" if shared else name,
        count(account.requests),
        money(account.picodollars),
        money(-(-account.picodollars // account.requests)) if account.requests else "",
        "" if account.rows is None else count(account.rows),
        money(-(-account.picodollars // account.rows)) if account.rows else "",
        unknown if shared else "",
    )


def _fastest(results: kdtool.Results, subjects: Subjects) -> float:
    """Return the tokens per second that the student, or an export of it, generates; 0 if that was not measured."""
    speeds = (value for value in results.values if own_name(value.measurement) == "decode-speed")
    return max(
        (speed.value for speed in speeds if speed.arm == "student" or subjects.is_exported(speed.arm)), default=0.0
    )


def _break_even(bought: Sequence[_Account], answers: int, work: _Work, speed: float) -> tuple[str, str]:
    """Return the number of requests from which the student is cheaper, in words, and what this counts and assumes."""
    requests, tokens_in, tokens_out = (
        sum(getattr(account, name) for account in bought) for name in ("requests", "tokens_in", "tokens_out")
    )
    machine_cost = 0
    if work.per_hour and speed:
        machine_cost = round(work.per_hour * (tokens_out / requests / speed) / 3600)
    saved, cost = answers - machine_cost * requests, answers + work.price
    mean = f"the mean size ({money(-(-answers // requests))}, {count(tokens_in / requests)} tokens in and"
    mean += f" {count(tokens_out / requests)} out)"
    sentence = (
        f"After {count(-(-cost * requests // saved))} answered requests of {mean}, distilling has cost no more than asking "
        "the API."
        if saved > 0
        else f"Asking the API stays cheaper: for a request of {mean} the student's machine costs {money(machine_cost)}."
    )
    machine = f"{money(machine_cost)} a request for the student's machine, at {speed:.3g} tokens/s, one at a time"
    counted = f"{money(answers)} for answers, rejected ones included; {work}{'; ' + machine if machine_cost else ''}"
    left_out = f"{'' if machine_cost else 'the machine while the student answers, '}evaluation, other runs"
    return sentence, (
        f"Counted: {counted}. Assumed: the student's answers serve as well as the teacher's. Not counted: {left_out}."
    )
