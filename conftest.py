"""Settings of all tests: few examples of properties, without time limits; no waiting for disks; load goes unnoticed."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import pytest

if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("quick", deadline=None, max_examples=20)
    settings.register_profile("nightly", deadline=None, max_examples=200)
    settings.load_profile("quick")  # `--hypothesis-profile nightly` is read later

_DEADLINE = float(os.environ.get("KDTOOL_TEST_DEADLINE") or 0)
"""Seconds since the epoch after which slow tests are skipped; 0 skips none."""


class _DeadlineOver(pytest.skip.Exception):
    """A slow test would begin after the deadline."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle files if there is a deadline, so that each is reached in some of several runs."""
    if _DEADLINE:
        files = [list(tests) for _, tests in groupby(items, lambda item: item.path)]
        random.Random(_DEADLINE).shuffle(files)  # the same order in each process
        items[:] = [item for tests in files for item in tests]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test that would begin after the deadline."""
    if 0 < _DEADLINE < time.time() and item.get_closest_marker("slow"):
        raise _DeadlineOver("KDTOOL_TEST_DEADLINE is over")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report such a test as skipped even where a conformance suite makes failures of skips."""
    report = yield
    if call.excinfo and isinstance(call.excinfo.value, _DeadlineOver):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, f"Skipped: {call.excinfo.value}")
    return report


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave out `fsync`, up to half of a test's time: only a power failure shows the difference, not `kill -9`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _quick_starts() -> Iterator[None]:
    """Have `kdtool` find in its environment what it would start a second time for, and no load to react to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_looking_for_garbage_among_modules() -> None:
    """Leave out of garbage collection what is alive between files: each phase of training collects, a third of a second."""
    gc.collect()
    gc.freeze()
