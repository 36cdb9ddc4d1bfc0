"""Submitted stages: a task of Ray, or one on each of several machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import kdtool

from kdtool_executor_ray._tasks import find_address, make, make_part

__all__ = ["on_machines", "on_one_machine"]


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
