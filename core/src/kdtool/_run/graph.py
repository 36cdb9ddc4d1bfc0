"""The graph of a run: every artefact that it consists of, before any of them is made.

`build_graph` builds it from an assembly, `execute` makes its nodes in order, `plan` says beforehand which of them are there.
A node's fingerprint is known as soon as those of its inputs are, and so is the folder that it will be in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdtool._contract.run_info import RunInfo
from kdtool._recipe.model import PhaseSpec
from kdtool._run.fingerprint import fingerprint
from kdtool._store.artefacts import Artefacts

__all__ = ["Graph", "Node", "Stage"]


@dataclass(frozen=True)
class Stage:
    """What a stage is called and for whom it is. `label` tells nodes of the same kind apart; `unit` is what it counts.

    `phase` is the name of the phase that is trained, "" in other stages.
    """

    kind: str
    label: str = ""
    arm: str = "student"
    seed: int = 0
    unit: str = ""
    phase: str = ""

    @property
    def name(self) -> str:
        """The stage's name in plans and records, such as `phases/student-seed0-train`."""
        return "/".join(part for part in (self.kind, self.label) if part)


@dataclass(frozen=True, eq=False)
class Node:
    """One artefact of a run.

    Attributes:
        stage: its name.
        where: the store that runs share, or the run's own folder.
        shared: whether runs share it; then its folder does not carry the label.
        parts: what its content depends on besides its inputs, as plain data by readable names.
        inputs: the nodes that it is made from, by what they are to it.
        teachers: the teachers that it asks, each with the node whose model it speaks with; None for its own.
        build: fills its folder. What a killed process committed is still in it.
        texts: the text that components may read meanwhile; None before there is any.
        total: how many units there are to do, asked when its inputs are there; it is given the folder that is filled.
        phase: the phase whose components take part; None where those of the run do alone.
        join: takes part in filling its folder as another rank than 0, and says whether it could; None: only rank 0 does.
    """

    stage: Stage
    where: Artefacts
    shared: bool
    parts: Mapping[str, Any]
    inputs: Mapping[str, Node]
    build: Callable[[RunInfo, Path], None]
    texts: Node | None = None
    total: Callable[[Path], int] | None = None
    phase: PhaseSpec | None = None
    join: Callable[[RunInfo, Path], bool] | None = None
    teachers: Mapping[str, Node | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, label and fingerprint, by which `where` finds the artefact."""
        return self.stage.kind, "" if self.shared else self.stage.label, self.fingerprint

    @cached_property
    def sources(self) -> Mapping[str, Node]:
        """All nodes that it depends on: its inputs, and what its teachers learnt."""
        return {**self.inputs, **{f"adapted {name}": node for name, node in self.teachers.items() if node}}

    @cached_property
    def asked(self) -> frozenset[str]:
        """The teachers that its fingerprint stands for: those that it asks, and those that its sources asked."""
        return frozenset(self.teachers).union(*(node.asked for node in self.sources.values()))

    @cached_property
    def fingerprint(self) -> str:
        """What stands for the parts and all inputs."""
        inputs = {role: node.fingerprint for role, node in self.sources.items()}
        return fingerprint(self.stage.kind, {**self.parts, **inputs})

    @property
    def path(self) -> Path:
        """The folder in which the artefact is, once it is made."""
        return self.where.path_of(*self.key)

    @property
    def exists(self) -> bool:
        """Whether the artefact is there."""
        return self.where.exists(*self.key)


@dataclass(frozen=True)
class Graph:
    """Nodes by name, each after those that it is made from."""

    nodes: dict[str, Node] = field(default_factory=dict)

    def add(self, node: Node) -> Node:
        """Add a node and return it, or the one that is the same artefact."""
        for other in self.nodes.values():
            if other.path == node.path:
                return other
        if node.name in self.nodes:
            raise ValueError(f"two stages are called {node.name}")
        self.nodes[node.name] = node
        return node

    def record(self, name: str, store: Path, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return plain data for `graph.json`: `clean` reads what the run needs, `plan` what has changed since.

        Args:
            name: the run's name.
            store: the folder that runs share.
            before: for a graph that is not whole yet, the nodes of the last run, which are kept where it has none of a name.
        """
        nodes = {
            node.name: {
                "in": "store" if node.shared else "run",
                "path": node.path.relative_to(node.where.root).as_posix(),
                "fingerprint": node.fingerprint,
                "parts": node.parts,
                "inputs": {role: other.name for role, other in node.sources.items()},
            }
            for node in self.nodes.values()
        }
        return {
            "format": 1,
            "name": name,
            "store": str(store),
            "whole": before is None,
            "nodes": {**(before or {}), **nodes},
        }
