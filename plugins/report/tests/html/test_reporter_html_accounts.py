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
    text = page(_paid(sample), Decimal(2))
    for words in ("Paid for answers", "$0.00500 an accepted row", "3, at most $0.100", "After "):
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
