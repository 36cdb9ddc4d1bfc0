"""The executor `ray`: stages of a run as tasks of a Ray cluster.

The executor connects to the cluster and chooses resources. A stage is one task of Ray, or one on each of several
machines. `make`, `make_part` and `find_address` run in workers of Ray.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal

import kdtool
from kdtool import Field

_CONNECT_SECONDS = 10.0


class RayExecutor(kdtool.Executor):
    """Makes stages side by side on a Ray cluster (Moritz et al. 2018, arXiv 1712.05889)."""

    extra = "ray"

    class Config(kdtool.Config):
        """The cluster, and what each stage gets of it."""

        address: Literal["auto", "local"] | kdtool.ServiceUrl = "auto"
        """Address of the cluster: "auto" for the one that runs on this machine, HOST:PORT for another one, "local" to start
        one on this machine for the run. One of another machine is given on the command line, or listed in
        KDTOOL_TRUST_URL."""
        cores: int = Field(1, ge=1, le=1024)
        """CPU cores, and so threads, of each process. Results depend on the number of threads, up to rounding."""
        gpus: float | None = Field(None, ge=0, le=1)
        """GPUs of each process that computes with a model; by default 1 if the cluster has any, else 0."""
        processes: int = Field(1, ge=1, le=64)
        """Processes on each machine that record, train or measure together, started by torchrun."""
        machines: int = Field(1, ge=1, le=64)
        """Machines that record, train or measure together. They begin when each has the resources of its processes free."""

    config: Config

    def kdtool_submit(self, run: kdtool.RunInfo, task: kdtool.Task) -> kdtool.Submitted:

        options, cores = self._options(task), self.config.cores
        processes, machines = (self.config.processes, self.config.machines) if task.divisible else (1, 1)
        self._warn_if_impossible(run, task, options, machines)
        if machines > 1:
            return on_machines(self._ray, task, options, machines=machines, processes=processes, cores=cores)
        return on_one_machine(self._ray, task, options, processes=processes, cores=cores)

    def kdtool_close(self) -> None:
        """Leave the cluster; one that was started for the run ends."""
        if "_ray" in vars(self):
            self._ray.shutdown()
            del self._ray

    @cached_property
    def _ray(self) -> Any:
        """Ray, connected to the cluster.

        Raises:
            ServiceError: no cluster answers at the address, or it uses another token than this process.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        address, stop = self.config.address, signal.getsignal(signal.SIGTERM)
        variables = {name: os.environ[name] for name in ("HF_HOME", "HF_HUB_OFFLINE") if name in os.environ}
        try:
            _knock(address)
            ray.init(
                address=address,
                log_to_driver=True,
                logging_level="ERROR",
                ignore_reinit_error=True,
                runtime_env={"env_vars": variables} if variables else None,
            )
        except (OSError, RuntimeError, ValueError) as error:
            text = str(error).strip().partition("\n")[0].rstrip(".")
            raise kdtool.ServiceError(
                f"executor.address {address!r}: no Ray cluster answers ({text}); start one with "
                "`ray start --head`, or set `executor.address: local`; if the cluster uses a token, set RAY_AUTH_MODE=token "
                "and copy ~/.ray/auth_token from its head"
            ) from error
        finally:
            with suppress(ValueError):  # in another thread than the main one, in which Ray sets its own handler, too
                signal.signal(signal.SIGTERM, stop)
        return ray

    def _options(self, task: kdtool.Task) -> dict[str, Any]:
        """Return the resources of a task on each of its machines, as Ray names them."""
        processes, gpus = self.config.processes if task.divisible else 1, self.config.gpus
        if gpus is None:
            gpus = float(self._ray.cluster_resources().get("GPU", 0) > 0)
        gpus = gpus if task.runs_models else 0.0
        options = {"num_cpus": processes * self.config.cores, "num_gpus": processes * gpus}
        if task.memory:
            options["memory"] = processes * task.memory
        return {**options, "name": task.title, "max_retries": 0}

    def _warn_if_impossible(
        self, run: kdtool.RunInfo, task: kdtool.Task, options: dict[str, Any], machines: int = 1
    ) -> None:
        """Show a line if the cluster has too few machines that are large enough; one that joins later may be."""
        wanted = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options.get("memory", 0)}
        there = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        large = [machine for machine in there if all(machine.get(name, 0) >= n for name, n in wanted.items())]
        if len(large) < machines:
            needs = f"{wanted['CPU']} cores, {wanted['GPU']:g} GPUs and {wanted['memory'] / 1e9:.1f} GB"
            which = "a machine" if machines == 1 else f"{machines} machines, each"
            run.say(
                f"{task.title} waits for {which} with {needs}, which the Ray cluster does not have; start one with "
                "`ray start`, or set `executor.cores`, `gpus`, `processes` or `machines`"
            )


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray itself tries for many minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()


@dataclass
class _Submitted:
    """Tasks of Ray that make a stage together. When one of them fails, the others are ended."""

    ray: Any
    references: list[Any]
    group: Any = None
    """The placement group that holds their resources, until it is given back."""
    failed: Any = None
    """The task that failed first."""

    def done(self) -> bool:
        ended, running = self.ray.wait(self.references, num_returns=len(self.references), timeout=0)
        if running and self.failed is None:
            self.failed = next((task for task in ended if self._error(task)), None)
            if self.failed:
                self.cancel()
        if not running and self.group is not None:
            self.ray.util.remove_placement_group(self.group)
            self.group = None
        return not running

    def result(self) -> object:
        try:
            return self.ray.get(self.failed or self.references)
        except self.ray.exceptions.RayTaskError as error:  # its own text begins with places in Ray
            raise error.cause from error

    def cancel(self) -> None:
        for reference in self.references:
            self.ray.cancel(reference, force=True)

    def _error(self, task: Any) -> Exception | None:
        try:
            self.ray.get(task)
        except Exception as error:
            return error
        return None


def on_one_machine(
    ray: Any, task: kdtool.Task, options: Mapping[str, Any], *, processes: int, cores: int
) -> kdtool.Submitted:
    """Submit a stage as one task, with the resources in `options`."""
    return _Submitted(ray, [_remote(make).options(**options).remote(task, processes, cores)])


def on_machines(
    ray: Any, task: kdtool.Task, options: Mapping[str, Any], *, machines: int, processes: int, cores: int
) -> kdtool.Submitted:
    """Submit a stage to several machines, which begin when each of them has the resources in `options`."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    resources = {"CPU": options["num_cpus"], "GPU": options["num_gpus"], "memory": options.get("memory", 0)}
    needed = {name: count for name, count in resources.items() if count}
    group = ray.util.placement_group([needed] * machines, strategy="STRICT_SPREAD")
    strategies = [PlacementGroupSchedulingStrategy(group, number) for number in range(machines)]
    main = _remote(find_address).options(num_cpus=0, scheduling_strategy=strategies[0]).remote()
    references = [
        _remote(make_part)
        .options(**options, scheduling_strategy=strategy)
        .remote(task, processes, cores, machines, number, main)
        for number, strategy in enumerate(strategies)
    ]
    return _Submitted(ray, references, group)


@cache
def _remote(function: Callable[..., Any]) -> Any:
    """Return Ray's form of a function, the same one for all stages, so that Ray sends it to the workers once."""
    import ray

    return ray.remote(function)


_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""


def make(task: kdtool.Task, processes: int, cores: int) -> None:
    """Make a stage in this process, or in several of torchrun on this machine, each with `cores` threads."""
    if processes > 1:
        _run_torchrun(task.command(processes), cores)
        return
    if torch := sys.modules.get("torch"):  # imported for an earlier stage, which may have had other cores
        torch.set_num_threads(cores)
    task.make()


def make_part(task: kdtool.Task, processes: int, cores: int, machines: int, machine: int, main: str) -> None:
    """Make a stage together with other machines, each with as many processes, by torchrun."""
    _run_torchrun(task.command(processes, machines, machine, main), cores)


def find_address() -> str:
    """Return HOST:PORT of a free port of this machine, as other machines of the cluster reach it."""
    import ray

    with socket.socket() as found:
        found.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{found.getsockname()[1]}"


def _run_torchrun(torchrun: list[str], cores: int) -> None:
    """Run torchrun to its end.

    Its messages are shown only if it fails: where all ends well, machines complain that the first one has left.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        done = subprocess.run(torchrun, env=environment, stderr=said, check=False, preexec_fn=_die_with_parent)  # noqa: S603
        if done.returncode:
            said.seek(0)
            sys.stderr.write(said.read())
            raise ChildProcessError(f"torchrun ended with exit code {done.returncode}")


def _die_with_parent() -> None:
    """Have torchrun end its processes when the worker that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
