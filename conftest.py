"""Settings of all tests: few examples of properties, without time limits; no waiting for disks; durations of files."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("quick", deadline=None, max_examples=20)
    settings.register_profile("nightly", deadline=None, max_examples=200)
    settings.load_profile("quick")  # `--hypothesis-profile nightly` is read later

_SECONDS: Counter[str] = Counter()
"""Seconds by file, set-up and tear-down included."""
SHOWN = 10
"""Files that are printed at the end; the others are in the file that KDTOOL_TEST_DURATIONS names."""


def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Let tests import the modules next to them."""
    if str(module_path.parent) not in sys.path:
        sys.path.insert(0, str(module_path.parent))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the time of each file, in the process that prints the summary."""
    _SECONDS[report.nodeid.partition("::")[0]] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the slowest files, and write the durations of all."""
    if "PYTEST_XDIST_WORKER" in os.environ or not _SECONDS:
        return
    terminalreporter.section("slowest files")
    for file, seconds in _SECONDS.most_common(SHOWN):
        terminalreporter.line(f"{seconds:7.1f} s  {file}")
    if target := os.environ.get("KDTOOL_TEST_DURATIONS"):
        lines = [f"{seconds:.1f}\t{file}\n" for file, seconds in _SECONDS.most_common()]
        Path(target).write_text("".join(lines), encoding="utf-8")


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
