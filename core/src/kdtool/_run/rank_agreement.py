"""Agreement of a run's processes on its graph: each compares its own with that of rank 0, which has published it.

So a process that reads other files, code or settings ends with the difference, and torchrun ends the others, instead of
waiting for artefacts that are never made. Rank 0 is known by the run's lock: a graph counts while the process that wrote
it holds the lock.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from kdtool._errors import UsageError
from kdtool._run.changes import changes
from kdtool._run.graph import Graph, read_record
from kdtool._store.locks import holder_of

_GLIMPSE = 0.1
"""Seconds between two looks."""
_PATIENCE = 1800.0
"""Seconds to wait for process 0."""


def agree(folder: Path, graph: Graph, rank: int) -> dict[str, Any]:
    """Compare the graph with that of rank 0, once this has published it; return the record of rank 0's process.

    Raises:
        UsageError: the graphs differ; or rank 0 ended, or did not show up.
    """
    leader: dict[str, Any] | None = None
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        seen, leader = leader, holder_of(folder)
        if seen and not leader:
            raise UsageError(
                "process 0 of this run ended while others waited for it; its own message has the reason. "
                "Start all of them again"
            )
        published = read_record(folder)
        # Seen twice, since a new rank 0 shows the name of a killed one for a moment, until it has written its own.
        if leader and leader == seen and published.get("by") == leader.get("id"):
            _refuse_difference(graph, published["nodes"], rank)
            return leader
        time.sleep(_GLIMPSE)
    raise UsageError(f"process 0 of this run did not start within {_PATIENCE / 60:.0f} minutes; start all together")


def _refuse_difference(graph: Graph, published: dict[str, Any], rank: int) -> None:
    """Refuse a graph that is not the published one, with the first node that differs."""
    for name in {**graph.nodes, **published}:
        node, there = graph.nodes.get(name), published.get(name)
        if node and there and there["fingerprint"] == node.fingerprint:
            continue
        why = (
            "; ".join(changes(node, published)) if node and there else f"process {0 if node else rank} does not have it"
        )
        raise UsageError(
            f"processes 0 and {rank} of this run would not make the same: {name} differs ({why}). Give all processes the "
            "same recipe, settings, files, code and environment, and start them again"
        )
