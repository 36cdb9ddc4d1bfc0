"""Tells pytest that a conformance suite's test must not be skipped: a skip that the suite did not decide is a failure.

Loaded by pytest in every environment with kdtool, by the entry point `kdtool`; it does nothing unless a test belongs to a
class that extends a suite of `kdtool.testing`.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

_SUITES = Path(__file__).resolve().parent / "testing"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a suite's test that was skipped from outside the suite into a failure."""
    report = yield
    if report.skipped and _of_a_suite(item) and (fault := _fault(report, call)):
        report.outcome, report.longrepr = "failed", f"{item.nodeid}: {fault}"
        vars(report).pop("wasxfail", None)
    return report


def _of_a_suite(item: pytest.Item) -> bool:
    guard = sys.modules.get("kdtool.testing._guard")
    cls = getattr(item, "cls", None)
    return guard is not None and isinstance(cls, type) and issubclass(cls, guard.Suite)


def _fault(report: pytest.TestReport, call: pytest.CallInfo[Any]) -> str:
    """Say why a skip, or an expected failure, does not count; "" if it does."""
    if hasattr(report, "wasxfail"):
        reason = str(report.wasxfail).removeprefix("reason: ")
        return "" if reason else "a conformance suite's test may be expected to fail only for a reason: give one"
    where, _, said = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
    by_mark = call.excinfo is None or getattr(call.excinfo.value, "_use_item_location", False)
    if not by_mark and Path(where).resolve().parent == _SUITES:
        return ""
    return (
        f"a conformance suite's test was skipped ({said}); remove the skip, or replace the test by one marked "
        "pytest.mark.xfail(reason=…) that says why the component cannot pass"
    )
