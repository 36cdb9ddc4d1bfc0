"""The executor `ray`: stages of a run as tasks of a Ray cluster.

`_executor` connects to the cluster and chooses resources, `_submitted` submits tasks and watches them, and `_tasks` holds
what runs in Ray's workers.
"""

from __future__ import annotations

from kdtool_executor_ray._executor import RayExecutor

__all__ = ["RayExecutor"]
