"""For tests of components that run programs."""

from __future__ import annotations

from functools import cache

from kdtool_programs._errors import SandboxError
from kdtool_programs._sandbox import Sandbox

__all__ = ["sandbox_is_there"]


@cache
def sandbox_is_there() -> bool:
    """Return whether programs can be run safely on this machine."""
    try:
        with Sandbox():
            return True
    except SandboxError:
        return False
