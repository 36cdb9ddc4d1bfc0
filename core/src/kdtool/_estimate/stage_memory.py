"""Memory of each stage of a run, for executors that reserve it."""

from __future__ import annotations

from kdtool._contract.run_info import RunInfo
from kdtool._estimate.run_forecast import ForecastCache, ask, describe, forecast_of
from kdtool._estimate.totals import Memory, add_up
from kdtool._run.build_graph import RunGraph
from kdtool._run.context import Context


def memory_of_stages(context: Context, run: RunInfo, run_graph: RunGraph) -> dict[str, tuple[int, int]]:
    """Return the bytes of main memory and of a GPU's that each stage needs at its peak; 0 for an unknown amount."""
    cache = ForecastCache()
    ahead, unknown = forecast_of(context, run, describe(context, run, cache), run_graph, cache)
    nodes = run_graph.graph.nodes
    asked = ask(context, run, ahead, run_graph, unknown)
    forecast = add_up(ahead, asked, unknown, {name: tuple(node.teachers) for name, node in nodes.items()})
    return {name: (_peak(forecast.memory, name), _peak(forecast.device_memory, name)) for name in nodes}


def _peak(memory: Memory, stage: str) -> int:
    moments = (parts for moment, parts in memory.moments.items() if moment.partition(": ")[0] == stage)
    return max((sum(parts.values()) for parts in moments), default=0)
