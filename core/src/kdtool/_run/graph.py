"""The graph of a run: every artefact that it consists of, before any of them is made.

`build_graph` builds it from an assembly, `execute` makes its nodes in order, `plan` compares them with the last run's.
A node's fingerprint is known as soon as those of its inputs are, and so is its folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtool._contract.reporting import StageRecord
from kdtool._contract.run_info import RunInfo
from kdtool._errors import StorageError
from kdtool._recipe.model import PhaseSpec
from kdtool._run.fingerprint import fingerprint
from kdtool._store.artefacts import Artefacts
from kdtool._store.atomic_files import read_sealed
from kdtool._store.layout import GRAPH, SHARED_KINDS


@dataclass(frozen=True, eq=False)
class Node:
    """One artefact of a run, and the stage of the run that makes it.

    Attributes:
        kind: the kind of artefact, such as "phases".
        label: distinguishes nodes of one kind.
        title: the stage in words, such as "training of student, seed 0".
        where: the store that runs share, or the run's own folder.
        parts: settings and code that its content depends on besides its inputs, as plain data by readable names.
        inputs: the nodes that it is made from, by their role.
        build: fills its folder, which still holds the files that a killed process committed.
        texts: the text that components may read meanwhile, or None.
        total: returns the number of units to do, given the folder that is filled, once its inputs exist.
        phase: the phase whose own components take part, or None.
        join: fills the folder together with rank 0, on other ranks, and returns whether it could; None: only rank 0 does.
        teachers: the teachers that it asks, each with the node that made its weights, or None.
        arm: the arm that it serves, or the teacher that it trains.
        seed: the seed that it serves.
        unit: the unit of progress.
    """

    kind: str
    label: str
    title: str
    where: Artefacts
    parts: Mapping[str, Any]
    inputs: Mapping[str, Node]
    build: Callable[[RunInfo, Path], None]
    texts: Node | None = None
    total: Callable[[Path], int] | None = None
    phase: PhaseSpec | None = None
    join: Callable[[RunInfo, Path], bool] | None = None
    teachers: Mapping[str, Node | None] = field(default_factory=dict)
    arm: str = "student"
    seed: int = 0
    unit: str = ""

    @property
    def name(self) -> str:
        """The stage's name in plans and records, such as `phases/student-seed0-train`."""
        return "/".join(filter(None, (self.kind, self.label)))

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, label and fingerprint, by which `where` finds the artefact; kinds that are always shared carry no label."""
        return self.kind, "" if self.kind in SHARED_KINDS else self.label, self.fingerprint

    @property
    def runs_models(self) -> bool:
        """True if models compute while it is made: not for text and rows, unless a teacher answers or a student samples."""
        samples = any(source.kind == "students" for source in self.inputs.values())
        return self.kind not in ("text", "rows") or self.join is not None or samples

    @cached_property
    def sources(self) -> Mapping[str, Node]:
        """All nodes that it depends on: its inputs, and those that trained its teachers."""
        return {**self.inputs, **{f"adapted {name}": node for name, node in self.teachers.items() if node}}

    @cached_property
    def known_teachers(self) -> frozenset[str]:
        """The teachers in its fingerprint: those that it asks, and those that its sources asked."""
        return frozenset(self.teachers).union(*(node.known_teachers for node in self.sources.values()))

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the parts and all inputs."""
        inputs = {role: node.fingerprint for role, node in self.sources.items()}
        return fingerprint(self.kind, {**self.parts, **inputs})

    @cached_property
    def path(self) -> Path:
        """The folder of the artefact, once it is made."""
        return self.where.path_of(*self.key)

    @property
    def partial(self) -> Path:
        """The folder of the artefact while it is made."""
        return self.path.with_name(f"{self.path.name}.partial")

    @property
    def exists(self) -> bool:
        """Return whether the artefact is there."""
        return self.where.exists(*self.key)

    def record(self, seconds: float, path: Path, *, reused: bool) -> StageRecord:
        """Return the record of its artefact, which took `seconds` to make."""
        return StageRecord(self.name, self.fingerprint, seconds, reused, path, self.title)


@dataclass(frozen=True)
class Graph:
    """Nodes by name, each after those that it is made from."""

    nodes: dict[str, Node] = field(default_factory=dict)
    _by_path: dict[Path, Node] = field(default_factory=dict)

    def add(self, node: Node) -> Node:
        """Add a node and return it, or the one that is the same artefact."""
        found = self._by_path.setdefault(node.path, node)
        if found is node:
            if node.name in self.nodes:
                raise ValueError(f"two stages are called {node.name}")
            self.nodes[node.name] = node
        return found

    def record(self, name: str, store: Path) -> dict[str, Any]:
        """Return plain data for `graph.json`: `clean` reads folders that the run needs, `plan` explains changes by it."""
        nodes = {
            node.name: {
                "title": node.title,
                "in": "store" if node.where.root == store else "run",
                "path": node.path.relative_to(node.where.root).as_posix(),
                "fingerprint": node.fingerprint,
                "parts": node.parts,
                "inputs": {role: other.name for role, other in node.sources.items()},
            }
            for node in self.nodes.values()
        }
        return {"format": 1, "name": name, "store": str(store), "nodes": nodes}


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the last graph of the run in `folder`; {} if none is there, or it is damaged."""
    try:
        record: dict[str, Any] = json.loads(read_sealed(folder / GRAPH, ""))
    except (OSError, StorageError):
        return {}
    return record
