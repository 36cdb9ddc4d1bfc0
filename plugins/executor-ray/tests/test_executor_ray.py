"""The executor `ray`, on a cluster of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
from kdtool_executor_ray import RayExecutor
from kdtool_testing import ExecutorConformance


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """One cluster for all tests, which the executor finds as the one that runs here."""
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()


class TestRayExecutor(ExecutorConformance):
    component = RayExecutor
    entry_point = "ray"
