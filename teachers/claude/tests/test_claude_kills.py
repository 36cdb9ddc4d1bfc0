"""Killed at any moment: no stored answer is asked for again, nothing is lost, and what may be paid twice is listed.

`KDTOOL_FULL_FAULTS=1` kills 50 times in 5,000 requests.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import kdtool
import pytest
from claude_asking import Ask, requests
from kdtool_testing.servers.claude import serve_process
from kdtool_testing.servers.claude_api import Faults

KILLS, REQUESTS = (50, 5000) if os.environ.get("KDTOOL_FULL_FAULTS") else (4, 400)
FAULTS = Faults(
    reset_before=0.01, reset_after=0.01, broken_json=0.01, error_charged=0.01, overloaded=0.01, cut=0.02, delay=0.01
)


def answers(ask: Ask) -> int:
    """Return the number of stored answers; 0 while the ledger is being made."""
    try:
        return ask.ledger.answers
    except kdtool.StorageError:
        return 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kills_pay_for_nothing_that_is_stored(tmp_path: Path) -> None:
    draw, in_flight, stored = random.Random(0), 0, 0
    asked = [*requests(REQUESTS // 2), *requests(REQUESTS // 2, max_tokens=9000, first=REQUESTS // 2)]
    draw.shuffle(asked)
    with serve_process(FAULTS) as server:
        ask = Ask(server.url, tmp_path)
        for kill in range(KILLS):
            pid = os.fork()
            if not pid:
                try:
                    ask(asked, concurrency=32)
                finally:
                    os._exit(0)
            goal = min(REQUESTS - 1, stored + draw.randrange(REQUESTS // KILLS))
            while answers(ask) < goal:
                time.sleep(0.02)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            seen = ask.ledger
            assert seen.answers >= stored, f"kill {kill} lost results"
            stored = seen.answers
            in_flight += seen.attempts.get("open", 0)
            assert seen.attempts.get("open", 0) <= 32
        found = {one.id for one in ask(asked, concurrency=32)}
        bill = server.bill()
    seen = ask.ledger
    assert found == {one.id for one in asked}
    assert ask.repeats == 0
    killed = [one for one in seen.unknown if "process ended" in one.reason]
    assert len(killed) == in_flight
    duplicates = sum(count - 1 for count in bill.charges.values())
    assert duplicates <= len(seen.unknown), "each is listed"
    assert seen.spent <= bill.picodollars <= seen.spent + seen.held
    print(f"{KILLS} kills, {REQUESTS} requests: {duplicates} duplicates, {in_flight} under way at kills, 0 asked again")
