"""The executor `ray`: what kdtool asks of every executor, on a cluster of two nodes of this machine."""

from __future__ import annotations

import runpy
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_cloud.ray import RayExecutor
from kdtool_testing import ExecutorConformance, make_run

pytestmark = pytest.mark.slow

ray_cluster = runpy.run_path(str(Path(__file__).with_name("ray_cluster.py")))["ray_cluster"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, ray_cluster(Path(folder)) as found:
        yield found


class TestRayExecutor(ExecutorConformance):
    component = RayExecutor
    entry_point = "ray"
    cluster: ClassVar[str] = ""

    @pytest.fixture(autouse=True)
    def _at(self, address: str) -> None:
        type(self).cluster = address

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        return {"address": self.cluster}


def test_an_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    executor = RayExecutor(RayExecutor.Config.model_validate({"address": "127.0.0.1:1"}))
    with pytest.raises(kdtool.ServiceError, match=r"no Ray cluster answers .* start one with `ray start --head`"):
        executor.kdtool_submit(make_run(tmp_path), kdtool.Task("text", "text", tmp_path))
    executor.kdtool_close()


def test_resources_are_those_of_the_settings_and_the_estimate(address: str, tmp_path: Path) -> None:
    lines, stop = list[str](), signal.getsignal(signal.SIGTERM)
    executor = RayExecutor(RayExecutor.Config(address=address, cores=8, processes=4, machines=1, gpus=0.5))
    options = executor._options(kdtool.Task("phases/x", "training of x", tmp_path, memory=10**9, divisible=True))
    assert (options["num_cpus"], options["num_gpus"], options["memory"]) == (32, 2.0, 4 * 10**9)
    options = executor._options(kdtool.Task("rows", "rows", tmp_path, memory=10**9, runs_models=False))
    assert (options["num_cpus"], options["num_gpus"], options["memory"]) == (8, 0.0, 10**9)
    executor._warn_if_impossible(make_run(tmp_path, say=lines.append), kdtool.Task("rows", "rows", tmp_path), options)
    assert lines[0].startswith("rows waits for a machine with 8 cores, 0 GPUs and 1.0 GB")
    small = {"num_cpus": 1, "num_gpus": 0}
    executor._warn_if_impossible(make_run(tmp_path, say=lines.append), kdtool.Task("rows", "rows", tmp_path), small, 2)
    executor._warn_if_impossible(make_run(tmp_path, say=lines.append), kdtool.Task("rows", "rows", tmp_path), small, 3)
    assert [line[:52] for line in lines[1:]] == ["rows waits for 3 machines, each with 1 cores, 0 GPUs"]
    assert signal.getsignal(signal.SIGTERM) is stop, "SIGTERM interrupts the run as Ctrl-C does"
    executor.kdtool_close()
