"""For tests of components that run programs, in the sandbox of kdtool-programs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdtool_programs.tasks import Module, Program


@cache
def sandbox_is_there() -> bool:
    """Return whether programs can be run safely on this machine."""
    from kdtool_programs.sandbox import Sandbox
    from kdtool_programs.tasks import SandboxError

    try:
        with Sandbox():
            return True
    except SandboxError:
        return False


def find_failures(works: Mapping[str, Module | Program], seconds: float = 20.0) -> set[str]:
    """Run programs under their tests, and return the names of those that did not pass."""
    from kdtool_programs.sandbox import Sandbox
    from kdtool_programs.tasks import Task

    with Sandbox(workers=2) as sandbox:
        passed = {
            verdict.id: verdict.has_passed
            for verdict in sandbox.run(Task(name, work, seconds) for name, work in works.items())
        }
    if not works or passed.keys() != works.keys():
        raise ValueError(f"there are verdicts on {sorted(passed)}, not on {sorted(works)}")
    return {name for name, has_passed in passed.items() if not has_passed}
