"""The teacher `claude`: answers, money, refusals and mistakes, against a server on this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from claude_asking import Ask, opened, requests
from kdtool_measuring import Ledger
from kdtool_teacher_claude import Claude
from kdtool_testing import TeacherConformance, make_run
from kdtool_testing.servers.claude_api import KEY, Faults, MessagesServer
from kdtool_testing.servers.claude_replies import MODEL


class TestClaude(TeacherConformance):
    component = Claude
    entry_point = "claude"
    settings: ClassVar = {"url": "http://127.0.0.1:1", "model": MODEL, "budget_usd": 10}
    running: ClassVar[MessagesServer]
    built: ClassVar[list[Any]]

    @pytest.fixture(autouse=True)
    def _server(self, server: MessagesServer) -> Iterator[None]:
        type(self).running, type(self).built = server, []
        yield
        for teacher in self.built:
            teacher.kdtool_close()

    def build(self, **settings: Any) -> Any:
        self.built.append(super().build(**settings))
        return self.built[-1]

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        return {"url": self.running.url, "ledger": str(folder / "ledger.sqlite")}


def test_the_ledger_equals_the_bill_and_nothing_is_asked_twice(
    ask: Ask, server: MessagesServer, tmp_path: Path
) -> None:
    first = {one.id: one for one in ask(60)}
    with ask.opened(budget_usd=200, concurrency=2, timeout=30) as teacher:
        again = {one.id: one for one in teacher.kdtool_answer(iter(requests(60)))}
        assert again == first
        assert {one.finish for one in first.values()} == {"stop"}
        runtime = teacher.kdtool_open(make_run(tmp_path), kdtool.Subject("teacher", "teacher"))
        assert runtime is not None
        assert runtime.abilities == {"converse"}
        conversation = kdtool.Request("other", "", 256, turns=(("user", "prompt 1"),))
        assert [one.text for one in runtime.answer([conversation])] == [first["r1"].text], "measuring it costs nothing"
    seen = ask.ledger
    assert seen.spent == server.bill.picodollars == sum(one.picodollars for one in first.values())
    assert (seen.answers, seen.held, len(server.bodies)) == (60, 0, 60)


def test_the_store_of_the_run_holds_the_ledger(server: MessagesServer, tmp_path: Path) -> None:
    config = Claude.Config(url=server.url, model=MODEL, budget_usd=Decimal(1))
    teacher = Claude(config)
    with pytest.raises(kdtool.UsageError, match=r"ledger: .*name a file"):
        list(teacher.kdtool_answer(requests(1)))
    teacher.kdtool_identity(make_run(tmp_path, store=tmp_path / "store"))
    assert len(list(teacher.kdtool_answer(requests(1)))) == 1
    teacher.kdtool_close()
    assert (tmp_path / "store" / "answers.sqlite").exists()


def test_the_price_of_a_sample_is_that_of_all_it_stands_for(ask: Ask, tmp_path: Path) -> None:
    with ask.opened(system="Write Python. " * 900) as teacher:
        run = make_run(tmp_path)
        (whole,) = teacher.estimate_answers(run, requests(500), 1, 1)
        (sampled,) = teacher.estimate_answers(run, requests(100), 5.0, 1)
        assert "500 requests" in sampled.note
        assert sampled.picodollars == pytest.approx(whole.picodollars, rel=0.01), "a prefix is written once"
        list(teacher.kdtool_answer(requests(50)))
        (rest,) = teacher.estimate_answers(run, requests(100), 5.0, 1)
    assert "250 answers stored already" in rest.note
    assert rest.picodollars < 0.6 * whole.picodollars


def test_equal_requests_are_one_and_drawn_ones_differ_by_seed(ask: Ask, server: MessagesServer) -> None:
    same = [kdtool.Request(f"s{i}", "same", 9, seed=i) for i in range(5)]
    drawn = [kdtool.Request(f"d{i}", "same", 9, temperature=0.8, seed=i) for i in range(5)]
    assert len(ask([*same, *drawn])) == 10
    assert ask.ledger.answers == len(server.bodies) == 6
    assert all("temperature" not in body and "seed" not in body for body in server.bodies)


def test_faults_lose_nothing_and_the_ledger_is_never_below_the_bill(ask: Ask, server: MessagesServer) -> None:
    server.faults = Faults(
        reset_before=0.03, reset_after=0.03, broken_json=0.03, error_charged=0.03, overloaded=0.03, delay=0.002
    )
    found = [one.id for one in ask(300)]
    assert sorted(found) == sorted(one.id for one in requests(300))
    seen, bill = ask.ledger, server.bill
    assert seen.spent == bill.delivered, "known results cost what the server says, to the picodollar"
    assert seen.spent < bill.picodollars <= seen.spent + seen.held
    duplicates = sum(count - 1 for count in bill.charges.values())
    assert 0 < duplicates <= seen.attempts["unknown"] == len(seen.unknown), "each is listed"
    assert {one.about.request for one in seen.unknown} <= set(found)
    assert {(one.about.model, one.about.purpose) for one in seen.unknown} == {(MODEL, "text")}
    assert ask.repeats == 0


def test_cut_streams_are_no_samples(ask: Ask, server: MessagesServer) -> None:
    server.faults = Faults(cut=0.1, no_stop=0.1)
    found = ask(requests(60, max_tokens=9000))
    assert all(body["stream"] for body in server.bodies)
    assert all(one.finish == "stop" and one.text.endswith(f"prompt {one.id[1:]}") for one in found)
    assert ask.ledger.spent == server.bill.delivered
    assert ask.ledger.attempts["unknown"] == len(server.bodies) - 60 > 0


def test_skip_never_pays_twice(ask: Ask, server: MessagesServer) -> None:
    server.faults = Faults(reset_after=0.2)
    found = ask(60, on_unknown="skip")
    assert max(server.bill.charges.values()) == 1
    skipped = [one for one in found if one.finish == "refused"]
    assert len(skipped) == ask.ledger.attempts["unknown"] > 0
    assert all("may have been charged" in one.reason for one in skipped)


def test_refusals_and_truncated_answers_are_paid_and_kept_but_wrong_requests_are_not(
    ask: Ask, server: MessagesServer
) -> None:
    server.faults = Faults(refusal=0.2, truncated=0.2, bad_request=0.2)
    found = Counter((one.finish, one.reason[:25]) for one in ask(80))
    assert set(found) == {("stop", ""), ("length", ""), ("refused", ""), ("refused", "400: prompt is too long: ")}
    wrong = found["refused", "400: prompt is too long: "]
    assert (ask.ledger.answers, ask.ledger.attempts["failed"]) == (80 - wrong, wrong)
    assert ask.ledger.spent == server.bill.picodollars


@pytest.mark.parametrize("seed", range(6))
def test_the_budget_is_never_exceeded_and_more_money_goes_on(ask: Ask, server: MessagesServer, seed: int) -> None:
    server.faults = Faults(seed, reset_after=0.05, broken_json=0.05, delay=0.002)
    with pytest.raises(kdtool.BudgetError) as stopped:
        ask(200, budget_usd="0.1")
    assert stopped.value.exit_code == 3
    assert "raise it and run again" in str(stopped.value)
    before = ask.ledger
    assert before.answers > 5
    assert server.bill.picodollars <= before.spent + before.held <= 10**11
    assert len(ask(200)) == 200
    assert ask.repeats == 0
    assert ask.ledger.spent == server.bill.delivered


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (401, "", kdtool.AuthenticationError, r"key in ANTHROPIC_API_KEY is refused \(401"),
        (402, "", kdtool.AuthenticationError, r"pays for no more \(402.*add credit"),
        (429, "enforced_spend_limit_reached", kdtool.AuthenticationError, r"pays for no more .*spend limit"),
        (400, "Your credit balance is too low", kdtool.AuthenticationError, r"pays for no more \(400"),
    ],
)
def test_key_and_credit_stop_the_run(
    ask: Ask, server: MessagesServer, status: int, code: str, kind: type[Exception], says: str
) -> None:
    with ask.opened() as teacher:
        assert len(list(teacher.kdtool_answer(requests(1)))) == 1
        server.faults = Faults(status=status, error=code)
        with pytest.raises(kind, match=says) as stopped:
            list(teacher.kdtool_answer(requests(500)))
    assert KEY not in str(stopped.value)
    assert ask.ledger.held == 0
    assert server.bill.statuses[str(status)] <= 128


def test_a_spend_limit_stops_after_what_is_under_way(ask: Ask, server: MessagesServer) -> None:
    server.faults = Faults(spend_limit=10**9, delay=0.002)
    with pytest.raises(kdtool.AuthenticationError, match="add credit"):
        ask(200)
    assert ask.ledger.spent == server.bill.picodollars


def test_mistakes_are_a_sentence_each(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    with (
        ask.opened(model="claude-nothing") as teacher,
        pytest.raises(kdtool.UsageError, match=r"price of 'claude-nothing' is unknown.*newer genai-prices"),
    ):
        teacher.kdtool_check(run, "start")
    with ask.opened(model="claude-sonnet-4-0-20990101") as teacher:
        teacher.kdtool_check(run, "start")
        with pytest.raises(kdtool.UsageError, match="'claude-sonnet-4-0-20990101' is unknown to the service"):
            list(teacher.kdtool_answer(requests(1)))
    for wrong in ("http://example.org", "https://user:word@example.org", "ftp://127.0.0.1"):
        with pytest.raises(ValueError, match="must be"):
            Claude.Config(model=MODEL, budget_usd=Decimal(1), url=wrong)
    with pytest.raises(ValueError, match="budget_usd"):
        Claude.Config.model_validate({"model": MODEL})
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(kdtool.AuthenticationError, match=r"ANTHROPIC_API_KEY is not set.*or name a service"):
        ask(1)
    with Ledger(tmp_path / "ledger.sqlite"):
        pass


def test_offline_only_stored_answers_are_given(ask: Ask, tmp_path: Path) -> None:
    ask(2)
    with opened("https://api.anthropic.com", tmp_path) as teacher:
        teacher.kdtool_identity(make_run(tmp_path, offline=True))
        assert len(list(teacher.kdtool_answer(requests(2)))) == 2
        with pytest.raises(kdtool.ServiceError, match="offline"):
            list(teacher.kdtool_answer(requests(3)))


def test_the_key_may_be_in_the_keyring(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    import keyring

    monkeypatch.delenv("ANTHROPIC_API_KEY")
    entries = {("mine", "anthropic"): KEY}
    monkeypatch.setattr(keyring, "get_password", lambda service, name: entries.get((service, name)))
    assert len(ask(1, keyring="mine")) == 1
    with pytest.raises(kdtool.AuthenticationError, match="is not set"):
        ask(2, keyring="other")


def test_a_shared_prefix_is_written_to_the_cache_once(ask: Ask, server: MessagesServer) -> None:
    server.faults = Faults(delay=0.02)
    ask(50, system="Answer well. " * 500)
    assert server.bill.cache_writes == 1, "the first request writes the prefix, and the others wait for it"
    assert server.bill.most_under_way > 4, "and not for each other"
    assert ask.ledger.spent == server.bill.picodollars
    ask(5, system="Answer well.")
    assert server.bodies[-1]["system"] == "Answer well.", "too short for the cache, so not marked"


def test_its_terms_need_to_be_acknowledged_for_text() -> None:
    terms = Claude(Claude.Config(model=MODEL, budget_usd=Decimal(1))).licence_terms
    assert "competing models" in terms.restrictions[0]
    assert MODEL in terms.notices[0]


@pytest.mark.parametrize("budget", ["100", "0.02", "0.001"])
@pytest.mark.parametrize("mode", ["messages", "batches"])
def test_a_forecast_bounds_the_bill_and_misses_the_key(
    ask: Ask, server: MessagesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, mode: str
) -> None:
    wanted, parts = requests(8), list[kdtool.Estimate]()
    with ask.opened(budget_usd=budget, mode=mode) as teacher:
        for asked in (wanted[:4], wanted[4:]):
            parts += teacher.estimate_answers(make_run(tmp_path, say=lambda _: None), asked, most=2)
        with suppress(kdtool.BudgetError):
            list(teacher.kdtool_answer([*wanted, replace(wanted[0], id="the same")]))
    most = sum(part.most_picodollars or 0 for part in parts)
    assert server.bill.picodollars <= most <= Decimal(budget) * 10**12
    assert (parts[0].picodollars < most) == (budget != "0.001")
    assert not any(part.lacks for part in parts)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with ask.opened() as teacher:
        (missing,) = teacher.estimate_answers(make_run(tmp_path), requests(1, first=9))
        assert "ANTHROPIC_API_KEY is not set" in missing.lacks
        assert not any(
            part.lacks for part in teacher.estimate_answers(make_run(tmp_path), wanted[: len(server.bodies)])
        )
