"""Agreement of a run's processes on its graph before anything is made: each compares its own with that of rank 0.

So processes that read other files, code or settings all end with the difference, instead of waiting for artefacts that
are never made. Rank 0 is known by the run's lock: a graph counts while the process that wrote it holds the lock.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from kdtool._errors import StorageError, UsageError
from kdtool._run.changes import changes
from kdtool._run.graph import Graph
from kdtool._store.atomic_files import read_sealed, write_sealed
from kdtool._store.layout import GRAPH
from kdtool._store.locks import holder_of

_FOLDER = "ranks"
_GLIMPSE = 0.1
"""Seconds between two looks."""
_PATIENCE = 1800.0
"""Seconds to wait for a process that does not show up."""


def agree(folder: Path, graph: Graph, rank: int, world: int) -> dict[str, Any] | None:
    """Compare the graphs of all processes, once rank 0 has published its own; return the record of rank 0's process.

    Each rank writes an answer to rank 0's process, and waits for all answers.

    Raises:
        UsageError: a process has another graph, which every rank reports; or rank 0 ended, or one did not show up.
    """
    answers = {other: folder / _FOLDER / f"{other}.json" for other in range(world)}
    leader: dict[str, Any] | None = None
    answered: dict[str, Any] | None = None
    missing = [0]
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        now = holder_of(folder)
        if answered and now in (answered, None):
            received = {other: _read(path) for other, path in answers.items()}
            missing = [other for other, answer in received.items() if not answer or answer["to"] != answered]
            if not missing:
                for answer in filter(None, received.values()):
                    if answer["differs"]:
                        raise UsageError(answer["differs"])
                return answered
        if leader and not now:
            raise UsageError(
                "process 0 of this run ended while others waited for it; its own message has the reason. "
                "Start all of them again"
            )
        leader, record = now, _read(folder / GRAPH)
        published = bool(leader and record and record.get("by") == leader.get("id"))
        if leader != answered and record and published:
            answered = leader  # perhaps of a killed run: a new rank 0 shows its name until it has written its own
            differs = _difference(graph, record["nodes"], rank)
            answers[rank].parent.mkdir(exist_ok=True)
            write_sealed(answers[rank], {"to": leader, "differs": differs})
        time.sleep(_GLIMPSE)
    absent = ", ".join(map(str, missing))
    raise UsageError(
        f"processes {absent} of this run did not start within {_PATIENCE / 60:.0f} minutes; start all together"
    )


def _difference(graph: Graph, published: dict[str, Any], rank: int) -> str:
    """Describe where the graph first differs from the published one; "" where it does not."""
    for name in {**graph.nodes, **published}:
        node, there = graph.nodes.get(name), published.get(name)
        if node and there and there["fingerprint"] == node.fingerprint:
            continue
        why = (
            "; ".join(changes(node, published)) if node and there else f"process {0 if node else rank} does not have it"
        )
        return (
            f"processes 0 and {rank} of this run would not make the same: {name} differs ({why}). Give all processes the "
            "same recipe, settings, files, code and environment, and start them again"
        )
    return ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(read_sealed(path, ""))
    except (StorageError, OSError):  # not there yet
        return None
    return content
