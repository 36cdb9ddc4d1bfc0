"""For tests of components that run programs."""

from __future__ import annotations

from functools import cache

from kdtool_programs.sandbox import Sandbox
from kdtool_programs.tasks import SandboxError


@cache
def sandbox_is_there() -> bool:
    """Return whether programs can be run safely on this machine."""
    try:
        with Sandbox():
            return True
    except SandboxError:
        return False
