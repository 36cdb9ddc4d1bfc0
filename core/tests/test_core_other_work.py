"""Other work on the machine is seen, and decides how OpenMP's threads wait. No torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter

import pytest
from kdtool._estimate import other_work
from kdtool._estimate.other_work import OtherWork, busy_cores, prepare_threads, wait_passively

BURN = "while True: pass"


@pytest.fixture
def neighbour() -> Iterator[None]:
    """Another program that takes a core."""
    with subprocess.Popen([sys.executable, "-c", BURN]) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="only Linux says it")  # noqa: PTH110
@pytest.mark.usefixtures("neighbour")
def test_work_of_others_is_seen_and_ones_own_is_not_counted() -> None:
    work, begun = OtherWork(), perf_counter()
    while perf_counter() < begun + 1:
        pass
    others = work.cores()
    assert others is not None
    assert others > 0.1
    mine = OtherWork(lambda: 100 * perf_counter())  # a program that says it did all of it
    while perf_counter() < begun + 1.5:
        pass
    assert mine.cores() == 0


def test_a_machine_is_busy_where_others_leave_too_few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for others, threads, disturbing in ((None, 8, 0), (0.1, 8, 0), (1.0, 8, 1.0), (3.0, 4, 0), (5.0, 4, 5.0)):
        monkeypatch.setattr(OtherWork, "cores", lambda _, others=others: others)
        assert OtherWork().disturbance(threads) == disturbing


@pytest.mark.parametrize(("others", "expected"), [(0.0, None), (1.0, "PASSIVE")])
def test_threads_sleep_while_they_wait_on_a_busy_machine_alone(
    others: float, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_work, "_PROBE_SECONDS", 0.0)
    monkeypatch.setattr(OtherWork, "cores", lambda _: others)
    environment: dict[str, str] = {}
    prepare_threads(environment)
    assert environment.get("OMP_WAIT_POLICY") == expected
    assert bool(busy_cores(os.cpu_count() or 1)) == bool(expected)


@pytest.mark.parametrize("own", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_users_own_setting_stays_and_nothing_is_measured(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_work, "busy_cores", lambda _: pytest.fail("the machine's load is of no use"))
    environment = {own: "mine"}
    wait_passively(environment)
    prepare_threads(environment)
    assert environment == {own: "mine"}


def test_where_the_system_does_not_say_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_work, "_busy_seconds", lambda: None)
    assert OtherWork().cores() is None
    assert busy_cores(10**6) == 0
