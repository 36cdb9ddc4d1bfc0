"""Keeps a suite's tests in place: a subclass that loses one fails when it is defined.

What can only be seen when tests run (a skip in a fixture, by a mark or from code of the subclass, an empty list of
parameters) is turned into a failure by `kdtool._pytest_plugin`.
"""

from __future__ import annotations

import inspect

__all__ = ["Suite"]

_HOME = __name__.rpartition(".")[0]


class Suite:
    """Base of all suites. A test may be replaced only by one marked `pytest.mark.xfail(reason=…)`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith(_HOME):
            return
        if not cls.__dict__.get("__test__", True):
            raise TypeError(f"{cls.__qualname__} switches off the conformance suite that it inherits")
        for name in _tests(cls):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if not owner.__module__.startswith(_HOME) and not _expected_to_fail(vars(owner)[name]):
                raise TypeError(
                    f"{owner.__qualname__} replaces {name}, a test of a conformance suite; remove it, or mark it "
                    "@pytest.mark.xfail(reason=…) and say why the component cannot pass"
                )


def _tests(cls: type) -> set[str]:
    homes = [base for base in cls.__mro__ if base.__module__.startswith(_HOME)]
    return {name for base in homes for name in vars(base) if name.startswith("test_")}


def _expected_to_fail(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return inspect.isfunction(test) and any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)
