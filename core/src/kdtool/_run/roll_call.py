"""Processes of a run agree on its graph before anything is made: rank 0 publishes it, the others compare theirs and answer.

So processes that read other files, code or settings end with what differs, each of them, instead of waiting for artefacts
that nobody makes. Rank 0 is known by the run's lock: a graph counts while the process that wrote it holds the lock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdtool._errors import StorageError, UsageError
from kdtool._run.graph import Graph
from kdtool._run.plan import changes
from kdtool._store.atomic_files import read_sealed, write_sealed
from kdtool._store.layout import GRAPH
from kdtool._store.locks import holder_of

__all__ = ["agree"]

_FOLDER = "ranks"
_GLIMPSE = 0.1
"""Seconds between two looks."""
_PATIENCE = 1800.0
"""Seconds for which a process that does not show up is waited for."""


def agree(folder: Path, graph: Graph, rank: int, world: int, *, whole: bool) -> dict[str, Any] | None:
    """Compare the graphs of all processes, once rank 0 has written its own; return what rank 0 says of itself.

    Raises:
        UsageError: another process has another graph, which is said on every rank, or it ended or did not show up.
    """
    if rank:
        return _answer(folder, graph, rank, whole=whole)
    leader, differing = holder_of(folder), dict[int, str]()
    waiting = set(range(1, world))
    for _ in _patiently("other processes of this run", lambda: ", ".join(map(str, sorted(waiting)))):
        for other in sorted(waiting):
            answer = _read(folder / _FOLDER / f"{other}.json")
            if answer and answer["to"] == [leader, whole]:
                waiting.remove(other)
                differing |= {other: answer["differs"]} if answer["differs"] else {}
        if not waiting:
            break
    verdict = next(iter(differing.values()), "")
    _write(folder, 0, leader, verdict, whole=whole)
    if verdict:
        raise UsageError(verdict)
    return leader


def _answer(folder: Path, graph: Graph, rank: int, *, whole: bool) -> dict[str, Any] | None:
    """Wait for rank 0's graph, say how this one differs, and wait for what comes out of all of them."""
    leader: dict[str, Any] | None = None
    answered = False
    for _ in _patiently("the first process of this run", lambda: "0"):
        verdict = _read(folder / _FOLDER / "0.json") if answered else None
        if verdict and verdict["to"] == [leader, whole]:
            if verdict["differs"]:
                raise UsageError(verdict["differs"])
            break
        now, record = holder_of(folder), _read(folder / GRAPH)
        if leader and not now:
            ended = "process 0 of this run ended while others waited for it; its own message says why"
            raise UsageError(f"{ended}. Start all of them again")
        answered = answered and now == leader  # a new rank 0 shows its predecessor's name until it has written its own
        leader = now
        if leader and not answered and record and record.get("by") == leader and record["whole"] == whole:
            _write(folder, rank, leader, _difference(graph, record["nodes"], rank, whole=whole), whole=whole)
            answered = True
    return leader


def _write(folder: Path, rank: int, leader: dict[str, Any] | None, differs: str, *, whole: bool) -> None:
    (folder / _FOLDER).mkdir(exist_ok=True)
    write_sealed(folder / _FOLDER / f"{rank}.json", {"to": [leader, whole], "differs": differs})


def _difference(graph: Graph, published: dict[str, Any], rank: int, *, whole: bool) -> str:
    """Say where the graph first differs from the published one; "" where it does not."""
    for name, node in graph.nodes.items():
        there = published.get(name)
        if there is None or there["fingerprint"] != node.fingerprint:
            why = "; ".join(changes(node, published)) if there else "process 0 does not have it"
            break
    else:
        name = next((name for name in published if whole and name not in graph.nodes), "")
        why = f"process {rank} does not have it"
    if not name:
        return ""
    return (
        f"processes 0 and {rank} of this run would not make the same: {name} differs ({why}). Give all processes the same "
        "recipe, settings, files, code and environment, and start them again"
    )


def _patiently(whom: str, which: Callable[[], str]) -> Iterator[None]:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        yield
        time.sleep(_GLIMPSE)
    raise UsageError(f"{whom} ({which()}) did not show up in {_PATIENCE / 60:.0f} minutes; start all of them together")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(read_sealed(path, ""))
    except (StorageError, OSError):  # not there yet
        return None
    return content
