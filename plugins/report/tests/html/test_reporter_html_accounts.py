"""Money and rejections that components account for: sums in whole picodollars, intervals, and what is assumed."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import kdtool
import pytest
from kdtool_report.html.accounts import Money, money_of
from kdtool_report.html.page import page
from kdtool_report.html.wording import Subjects, money

SPACE, THIN = "\u00a0", "\u202f"
CORPUS: dict[str, Any] = {
    "requests": 1_500,
    "rows": 1_200,
    "tokens_in": 450_000,
    "tokens_out": 300_000,
    "picodollars": 6_000_000_000_001,
    "rejected": {"syntax: go does not parse": 250, "refused": 50},
    "samples": [{"reason": "refused", "id": "go/easy/debug/3#0", "text": "<b>no</b>\u202e"}],
}
LEDGER = {"requests": 2_000, "picodollars": 8 * 10**12, "unknown_requests": 3, "unknown_picodollars": 10**11}
TRAINING_HOURS = 100 * 2.4 / 3600
"""Of one student of the sample."""


def _paid(sample: kdtool.Results, **accounts: Any) -> kdtool.Results:
    accounts = accounts or {"corpora.instruct": CORPUS, "teachers.claude": LEDGER, "corpora.free": {"requests": 9}}
    return dataclasses.replace(sample, data={**sample.data, "accounts": accounts})


def _money(results: kdtool.Results, dollars_per_hour: Decimal | None = None) -> Money:
    found = money_of(results, Subjects(results.subjects), dollars_per_hour)
    assert found is not None
    return found


def _compared(
    sample: kdtool.Results, difference: float, low: float, high: float, against: str = "control"
) -> kdtool.Results:
    score = kdtool.Measurement("humaneval.pass@1", "student", "fraction", 0.5, 164, higher_is_better=True)
    first = next(one for one in sample.comparisons if not one.relative)
    one = dataclasses.replace(first, difference=difference, low=low, high=high, against=against, measurement=score.name)
    compared = (*sample.comparisons, one)
    return dataclasses.replace(_paid(sample), measurements=(*sample.measurements, score), comparisons=compared)


def test_known_money_stands_beside_what_may_have_been_charged(sample: kdtool.Results) -> None:
    found = _money(_paid(sample))
    corpus, ledger = found.rows
    assert dataclasses.astuple(corpus) == (
        "corpora.instruct", f"1{THIN}500", "$6.00", "$0.00400", f"1{THIN}200", "$0.00500", "",
    )  # fmt: skip
    assert ledger.name == "teachers.claude, all runs that share its ledger"
    assert (ledger.spent, ledger.mean, ledger.rows) == ("$8.00", "$0.00400", "")
    assert ledger.unknown == "3, at most $0.100"
    assert (found.total, found.a_row) == ("$6.00", "$0.00500")


def test_the_money_of_a_teacher_is_shown_for_each_use_of_its_answers(sample: kdtool.Results) -> None:
    purposes = {"evaluator chat": [500, 2 * 10**12], "text": [1_500, 6 * 10**12]}
    _, ledger, chat, text = _money(_paid(sample, corpus=CORPUS, teacher={**LEDGER, "purposes": purposes})).rows
    assert (ledger.name, ledger.spent) == ("teacher, all runs that share its ledger", "$8.00")
    assert dataclasses.astuple(chat)[:4] == ("teacher, for evaluator chat", "500", "$2.00", "$0.00400")
    assert (text.name, text.spent, text.unknown) == ("teacher, for text", "$6.00", "")


def test_a_run_that_paid_for_nothing_has_no_money(sample: kdtool.Results) -> None:
    free = _paid(sample, corpus={**CORPUS, "picodollars": 0})
    assert money_of(free, Subjects(free.subjects), None) is None
    assert 'id="money"' not in page(free)
    assert 'id="money"' not in page(sample)


@pytest.mark.parametrize(
    ("difference", "low", "high", "words"),
    [
        (0.02, 0.01, 0.04, "$3.00 a point ($1.50 to $6.00)"),
        (0.02, -0.01, 0.06, "$3.00 a point, at least $1.00; the interval includes no gain"),
        (-0.01, -0.03, 0.01, "no gain is measured; at the interval's end $6.00 a point"),
        (-0.02, -0.03, -0.01, "no gain"),
    ],
)
def test_a_point_s_price_has_the_interval_of_the_difference(
    sample: kdtool.Results, difference: float, low: float, high: float, words: str
) -> None:
    results = _compared(sample, difference, low, high)
    assert _money(results).points == (f"Humaneval: pass@1 over Control, equal tokens: {words}",)
    if "($1.50" in words:
        (with_training,) = _money(results, Decimal(6 / TRAINING_HOURS)).points
        assert with_training.endswith("$6.00 a point ($3.00 to $12.00)")


def test_only_benchmarks_of_unpaid_arms_have_prices(sample: kdtool.Results) -> None:
    assert _money(_paid(sample)).points == (), "lower is better, or likeness to the teacher is no ability"
    assert _money(_compared(sample, 0.02, 0.01, 0.04, "teachers.claude")).points == ()


def test_the_break_even_is_where_asking_would_have_cost_as_much(sample: kdtool.Results) -> None:
    slow = dataclasses.replace(_paid(sample), values=())
    found = _money(slow)
    assert (
        f"After 1{THIN}500 answered requests of the mean size ($0.00400, 300 tokens in and 200 out)" in found.break_even
    )
    assert f"4{SPACE}min 00{SPACE}s of training are not priced" in found.assumed
    priced = _money(slow, Decimal(2 / TRAINING_HOURS))
    assert f"After 2{THIN}000 answered requests" in priced.break_even
    assert f"$2.00 for 4{SPACE}min 00{SPACE}s of training one student, at $30.00 an hour" in priced.assumed
    assert "Not counted: the machine while the student answers, evaluation" in priced.assumed


def test_the_student_s_machine_counts_where_its_speed_and_price_are_known(sample: kdtool.Results) -> None:
    speed = kdtool.ArmValue("student", "decode-speed", "tokens/s", True, 100.0, None, None, 1)
    slower = dataclasses.replace(speed, arm="teacher", value=200.0)
    known = dataclasses.replace(_paid(sample), values=(speed, slower))
    found = _money(known, Decimal("3.6"))  # 2 s of it for 200 tokens cost $0.002, half of a request
    assert f"After 3{THIN}120 answered requests" in found.break_even, "$6 and $0.24, at $0.002 a request"
    assert "$0.00200 a request for the student's machine, at 100 tokens/s, one at a time" in found.assumed
    assert "Not counted: evaluation, other runs." in found.assumed
    never = _money(known, Decimal("7.21"))
    assert never.break_even.startswith("Asking the API stays cheaper: for a request of the mean size ($0.00400, ")
    assert never.break_even.endswith("the student's machine costs $0.00401.")
    assert f"After 1{THIN}500 answered requests" in _money(known).break_even, "without a price, hours are only stated"


def test_the_page_shows_money_and_rejections_with_samples(sample: kdtool.Results) -> None:
    text = page(_compared(sample, 0.02, 0.01, 0.04), Decimal(2))
    for words in ("Paid for answers", "$0.00500 an accepted row", "3, at most $0.100", "Per point gained", "After "):
        assert words in text, words
    assert "Rejected by corpora.instruct" in text
    assert 0 < text.index("<td>250</td>") < text.index("<td>50</td>"), "in the recipe's order"
    assert "&lt;b&gt;no&lt;/b&gt;\\u202e" in text, "escaped, and no override of the direction"
    assert "Accounts" not in text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"), (1, "$0.00000000000100"), (45_000_000, "$0.0000450"), (123_456_000_000, "$0.123"),
        (10**12 - 1, "$1.000"), (1_999_999_999_999_999, f"$2{THIN}000.00"),
    ],
)  # fmt: skip
def test_money_is_rounded_only_where_it_is_printed(amount: int, text: str) -> None:
    assert money(amount) == text
