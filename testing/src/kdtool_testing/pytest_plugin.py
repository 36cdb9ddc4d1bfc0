"""Reports what a conformance suite's test class still has to set, and turns skips from outside of the suite into failures.

Of several classes on one component, with different settings, the first runs the tests that settings do not change. pytest
loads this plugin wherever kdtool-testing is installed; it changes only the tests of suites.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from kdtool_testing.suite import Suite

_SUITES = Path(__file__).resolve().parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that settings do not change if another class of the folder runs them on the same component.

    It runs last, because an option may deselect the other class.
    """
    first: dict[object, type] = {}
    kept: list[pytest.Item] = []
    repeated: list[pytest.Item] = []
    for item in items:
        (repeated if isinstance(item, pytest.Function) and _is_repeated(item, first) else kept).append(item)
    if repeated:
        config.hook.pytest_deselected(items=repeated)
        items[:] = kept


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


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Report one error for a suite's test class that lacks an attribute, instead of its tests."""
    report = yield
    if isinstance(collector, pytest.Class) and _of_a_suite(collector) and (fault := collector.obj._unset()):
        report.outcome, report.longrepr, report.result = "failed", f"{collector.nodeid}: {fault}", []
    return report


def _of_a_suite(item: pytest.Item | pytest.Class) -> bool:
    cls = getattr(item, "cls", None)
    return isinstance(cls, type) and issubclass(cls, Suite)


def _is_repeated(item: pytest.Function, first: dict[object, type]) -> bool:
    """Return whether another class runs the test on the same component; `first` has the class of each test."""
    expected = item.get_closest_marker("xfail")
    if expected or not _of_a_suite(item) or not getattr(item.function, "for_any_settings", False):
        return False
    component = getattr(item.cls, "component", item.cls)
    return first.setdefault((item.path.parent, item.name, component, item.cls.entry_point), item.cls) is not item.cls


def _fault(report: pytest.TestReport, call: pytest.CallInfo[Any]) -> str:
    """Return why a skip, or an expected failure, does not count; "" if it does."""
    if hasattr(report, "wasxfail"):
        reason = str(report.wasxfail).removeprefix("reason: ")
        return "" if reason else "a conformance suite's test may be expected to fail only for a reason: give one"
    where, _, said = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
    by_mark = call.excinfo is None or getattr(call.excinfo.value, "_use_item_location", False)
    if not by_mark and Path(where).resolve().parent == _SUITES:
        return ""
    return (
        f"a conformance suite's test was skipped ({said}); remove the skip, or replace the test by one marked "
        "pytest.mark.xfail(reason=…), with the reason why the component cannot pass"
    )
