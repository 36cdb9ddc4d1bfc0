"""The executor `ray`: submits each stage as a task of a Ray cluster."""

from __future__ import annotations

import os
import socket
from functools import cached_property
from typing import Any

import kdtool
from kdtool import Field

__all__ = ["RayExecutor"]

_CONNECT_SECONDS = 10.0


class RayExecutor(kdtool.Executor):
    """Makes stages side by side on a Ray cluster (Moritz et al. 2018, arXiv 1712.05889)."""

    class Config(kdtool.Config):
        """The cluster, and what each stage gets of it."""

        address: str = "auto"
        """Address of the cluster: "auto" for the one that runs on this machine, HOST:PORT for another one, "local" to start
        one on this machine for the run."""
        cores: int = Field(1, ge=1, le=1024)
        """CPU cores, and so threads, of each process. Results depend on the number of threads, up to rounding."""
        gpus: float | None = Field(None, ge=0, le=1)
        """GPUs of each process that computes with a model; by default 1 if the cluster has any, else 0."""
        processes: int = Field(1, ge=1, le=64)
        """Processes on each machine that record, train or measure together, started by torchrun."""
        machines: int = Field(1, ge=1, le=64)
        """Machines that record, train or measure together. They begin when each has the resources of its processes free."""
        reserve_memory: bool = True
        """Reserve the main memory that `kdtool check` estimates for each stage."""
        logs: bool = True
        """Show the output of workers in the terminal."""
        variables: tuple[str, ...] = ("HF_HOME", "HF_HUB_OFFLINE")
        """Environment variables of this process that workers get, if they are set."""

    config: Config

    def kdtool_submit(self, run: kdtool.RunInfo, task: kdtool.Task) -> kdtool.Submitted:
        from kdtool_executor_ray._submitted import on_machines, on_one_machine

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

        address = self.config.address
        variables = {name: os.environ[name] for name in self.config.variables if name in os.environ}
        try:
            _knock(address)
            ray.init(
                address=address,
                log_to_driver=self.config.logs,
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
        return ray

    def _options(self, task: kdtool.Task) -> dict[str, Any]:
        """Return the resources of a task on each of its machines, as Ray names them."""
        processes, gpus = self.config.processes if task.divisible else 1, self.config.gpus
        if gpus is None:
            gpus = float(self._ray.cluster_resources().get("GPU", 0) > 0)
        gpus = gpus if task.runs_models else 0.0
        options = {"num_cpus": processes * self.config.cores, "num_gpus": processes * gpus}
        if self.config.reserve_memory and task.memory:
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
                "`ray start`, or set `executor.cores`, `gpus`, `processes`, `machines` or `reserve_memory`"
            )


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray itself tries for many minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
