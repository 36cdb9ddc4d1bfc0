"""Batches: half the price, whatever comes back, and never submitted twice."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import kdtool
import pytest
from claude_asking import Ask, requests
from kdtool_teacher_claude import _batches
from kdtool_testing.servers.claude import serve_process
from kdtool_testing.servers.claude_api import Faults, MessagesServer

KILLS = 30 if os.environ.get("KDTOOL_FULL_FAULTS") else 5


def test_batches_cost_half_and_hold_only_what_is_missing(
    ask: Ask, server: MessagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batches, "_MOST_REQUESTS", 25)
    few = ask(19)
    assert (len(few), server.bill.batches) == (19, 0)
    paid = server.bill.picodollars
    with ask.opened(mode="batches") as teacher:
        many = {one.id: one for one in teacher.kdtool_answer(requests(60))}
        assert teacher.spent().startswith(f"{kdtool.dollars(server.bill.picodollars)} of at most ")
    assert server.bill.batches == 2, "41 were missing"
    assert {one.id: one for one in few}.items() <= many.items()
    assert len(many) == 60
    assert ask.ledger.spent == server.bill.picodollars
    assert server.bill.picodollars - paid == sum(many[f"r{i}"].picodollars for i in range(19, 60))
    assert many["r59"].picodollars < 0.6 * many["r0"].picodollars


def test_expired_errored_and_missing_results_are_handled(
    ask: Ask, server: MessagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batches, "_MOST_REQUESTS", 50)
    server.faults = Faults(batch_errored=0.1, batch_expired=0.1, batch_missing=0.4, cut=0.3, reset_before=0.1)
    found = ask(100, mode="batches")
    errored = [one for one in found if one.finish == "refused"]
    assert len(found) == 100
    assert errored
    assert all("prompt is too long" in one.reason for one in errored)
    seen = ask.ledger
    assert seen.answers == 100 - len(errored)
    assert server.bill.picodollars <= seen.spent + seen.held
    assert ask.repeats == 0


def test_a_lost_reply_makes_no_second_batch(ask: Ask, server: MessagesServer) -> None:
    server.faults = Faults(batch_reset_after=1.0, batch_seconds=0.3)
    assert len(ask(30, mode="batches")) == 30
    assert server.bill.batches == 1
    assert ask.ledger.spent == server.bill.picodollars


def test_the_budget_holds_for_batches(ask: Ask, server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_batches, "_MOST_REQUESTS", 10)
    settings = {"mode": "batches", "budget_usd": "0.03"}
    with pytest.raises(kdtool.BudgetError):
        ask(500, **settings)
    assert 10 < ask.ledger.answers < 500
    assert ask.ledger.spent == server.bill.picodollars <= 3 * 10**10
    assert len(ask(500, mode="batches")) == 500
    assert ask.ledger.spent == server.bill.picodollars


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kills_around_submission_and_collection_make_no_second_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_batches, "_MOST_REQUESTS", 20)
    draw = random.Random(0)
    faults = Faults(batch_seconds=0.15, batch_reset_after=0.2, reset_before=0.1)
    with serve_process(faults) as server:
        ask = Ask(server.url, tmp_path)
        for kill in range(KILLS):
            pid = os.fork()
            if not pid:
                try:
                    ask(20 * (kill + 1), mode="batches")
                finally:
                    os._exit(0)
            time.sleep(draw.uniform(0.1, 0.7))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        found = ask(20 * KILLS, mode="batches")
        bill = server.bill()
    assert len(found) == 20 * KILLS
    assert max(bill.charges.values()) == 1, "no request was in two batches"
    assert bill.batches == KILLS
    assert ask.ledger.spent == bill.picodollars
    assert ask.ledger.held == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_batch_of_a_killed_run_is_collected_in_any_mode(tmp_path: Path) -> None:
    with serve_process(Faults(batch_seconds=2.0)) as server:
        ask = Ask(server.url, tmp_path)
        pid = os.fork()
        if not pid:
            try:
                ask(30, mode="batches")
            finally:
                os._exit(0)
        while not server.bill().batches:
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert len(ask(40)) == 40
        bill = server.bill()
    assert (bill.batches, max(bill.charges.values()), len(bill.charges)) == (1, 1, 40)
    assert ask.ledger.spent == bill.picodollars
