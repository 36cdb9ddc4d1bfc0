"""The error of machines on which programs cannot be run safely."""

from __future__ import annotations

import kdtool


class SandboxError(kdtool.KdtoolError):
    """Generated code cannot be executed safely on this machine."""

    exit_code = 10
