"""Keeps a suite's tests, and what they call, in place: a subclass that loses one fails when it is defined.

`kdtool_testing.pytest_plugin` fails what shows only when tests run: a skip in a fixture, by a mark or from code of the
subclass, an empty list of parameters.
"""

from __future__ import annotations

import inspect

__all__ = ["Suite"]

_HOME = __name__.removesuffix("suite")


class Suite:
    """Base of all suites.

    A test may be replaced only by one marked `pytest.mark.xfail(reason=…)`, and private methods not at all; public ones
    are there to be overridden.
    """

    @classmethod
    def _unset(cls) -> str:
        """Return what a test class still has to set, as an instruction; "" if nothing."""
        return ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith(_HOME):
            return
        if not cls.__dict__.get("__test__", True):
            raise TypeError(f"{cls.__qualname__} switches off the conformance suite that it inherits")
        for name in sorted(_parts(cls)):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner.__module__.startswith(_HOME):
                continue
            if name.startswith("_"):
                raise TypeError(f"{owner.__qualname__} replaces {name}, on which tests of a conformance suite stand")
            if not _expected_to_fail(vars(owner)[name]):
                raise TypeError(
                    f"{owner.__qualname__} replaces {name}, a test of a conformance suite; remove it, or mark it "
                    "@pytest.mark.xfail(reason=…) and say why the component cannot pass"
                )


def _parts(cls: type) -> set[str]:
    """Return the names of tests and private methods that the class inherits of suites."""
    homes = [base for base in cls.__mro__ if base.__module__.startswith(_HOME)]
    names = {name for base in homes for name, part in vars(base).items() if inspect.isfunction(part)}
    return {name for name in names if name.startswith(("test_", "_")) and not name.startswith("__")}


def _expected_to_fail(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return inspect.isfunction(test) and any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)
