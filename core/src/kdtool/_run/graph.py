"""The graph of a run: every artefact that it consists of, before any of them is made, with its fingerprint.

`build_graph` builds it from an assembly, `execute` makes its nodes in order, `plan_run` compares them with the last run's. A
node's fingerprint is known as soon as those of its inputs are, and so is its folder. `changes` states differences between a
node and the one of its name in another graph, in words: `loss ce added`, `ce.weight 1.0 → 0.2`.

A fingerprint is one SHA-256 of everything that an artefact depends on. In it: the format's number, the stage, inputs'
fingerprints, the seed where it is used, and of each component that took part kind, plugin, class, distribution, version,
settings with defaults, a hash of the code that it runs (`sources`), and `identity()`. Versions do not identify code: it
may be a file, a folder, or a wheel that was built again. Not in it: names, paths, tool versions, settings marked as not
affecting results.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pydantic

from kdtool._assembly.built import Built
from kdtool._contract.component import does_not_affect_results
from kdtool._contract.language_model import Tokenizer
from kdtool._contract.reporting import StageRecord
from kdtool._contract.run_info import RunInfo
from kdtool._errors import StorageError
from kdtool._recipe.model import PhaseSpec
from kdtool._run.sources import code_of
from kdtool._store.artefacts import Artefacts
from kdtool._store.files import sealed_json
from kdtool._store.shared import GRAPH, SHARED_KINDS


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
        return sealed_json(folder / GRAPH, "", nodes=dict)
    except (OSError, StorageError):
        return {}


FORMAT = 3
"""Grows when artefacts of an older kdtool can no longer be used."""


def fingerprint(stage: str, parts: Mapping[str, Any]) -> str:
    """Return the fingerprint of a stage that depends on `parts` (plain data), as 64 hexadecimal digits."""
    text = json.dumps({"format": FORMAT, "stage": stage, "parts": parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def component_part(built: Built, identity: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the part of a fingerprint that stands for one component, as plain data."""
    owner, loaded = built.owner, built.loaded
    cls: Any = loaded.cls
    source, libraries = code_of(cls, owner.distribution)
    return {
        "kind": owner.kind,
        "use": owner.use.rpartition(":")[2] if loaded.digest else owner.use,  # where a local file lies does not count
        "class": cls.__qualname__,
        "distribution": owner.distribution,
        "version": owner.version,
        "config": _deciding(built.written),
        "source": loaded.digest or source,
        "libraries": libraries,
        "identity": dict(identity or {}),
    }


def tokenizer_part(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the parts of a fingerprint that stand for a tokenizer, as plain data by readable names."""
    return {
        "tokenizer": tokenizer.fingerprint,
        "start of documents": list(tokenizer.document_start),
        "chat template": tokenizer.chat_fingerprint,
    }


def _deciding(config: pydantic.BaseModel) -> dict[str, Any]:
    """Return the plain form of a config without the settings that do not affect results."""
    fields = type(config).model_fields.items()
    silent = {name for name, field in fields if field.json_schema_extra == does_not_affect_results()}
    return {name: part for name, part in config.model_dump(mode="json").items() if name not in silent}


_LONGEST = 60
"""Characters of a value that are shown."""
_GROUPS = {"terms", "components", "teachers", "validators", "annotations"}
"""Parts of a node that are not named, since the names of their entries follow."""
_PARTS_OF_CODE = ("class", "distribution", "source")


def changes(node: Node, before: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the differences of a node from the one of its name among `before`, a line each."""
    last = before[node.name]
    parts = last["parts"], json.loads(json.dumps(node.parts))
    shared = (
        parts[0].get("terms", {}).keys() & parts[1].get("terms", {}).keys()
    )  # of others the loss is added or removed
    old, new = ({**each, "terms": {label: each["terms"][label] for label in sorted(shared)}} for each in parts)
    lines = [
        line for key in {**old, **new} for line in _compare("" if key in _GROUPS else key, old.get(key), new.get(key))
    ]
    if not lines and parts[0] != parts[1]:
        lines.append("the order of components changed")
    roles = last["inputs"]
    kept = [(before[roles[role]]["fingerprint"], source) for role, source in node.sources.items() if role in roles]
    inputs = {
        "changed": [source.title for fingerprint, source in kept if source.fingerprint != fingerprint],
        "added": [source.title for role, source in node.sources.items() if role not in roles],
        "removed": [before[name]["title"] for role, name in roles.items() if role not in node.sources],
    }
    lines += [f"input {what}: {' and '.join(dict.fromkeys(titles))}" for what, titles in inputs.items() if titles]
    return tuple(dict.fromkeys(lines))


def _compare(name: str, old: Any, new: Any) -> Iterator[str]:
    """Yield the differences of two values: of mappings and components each entry's, of others the values themselves."""
    old, new = _by_use(old), _by_use(new)
    if old == new:
        return
    if _is_component(old) or _is_component(new):
        yield from _compare_components(name, old, new)
    elif isinstance(old or {}, Mapping) and isinstance(new or {}, Mapping):
        for key in {**(old or {}), **(new or {})}:
            yield from _compare(f"{name}.{key}".lstrip("."), (old or {}).get(key), (new or {}).get(key))
    else:
        shown = [_show(value) for value in (old, new)]
        yield f"{name} {' → '.join(shown)}" if all(shown) else f"the {name} changed"


def _compare_components(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[str]:
    short = name.rpartition(".")[2]
    called = " ".join(dict.fromkeys(((old or new or {})["kind"], short)))
    if old is None or new is None:
        yield f"{called} {'added' if old is None else 'removed'}"
    elif old["use"] != new["use"]:
        yield f"{called} {old['use']} → {new['use']}"
    else:
        yield from _compare(short, old["config"], new["config"])
        yield from _compare(called, old["version"], new["version"])
        if old["version"] == new["version"] and any(old[key] != new[key] for key in _PARTS_OF_CODE):
            yield f"code of {called} changed"
        for library in {**old["libraries"], **new["libraries"]}:
            if old["libraries"].get(library) != new["libraries"].get(library):
                yield f"code of {library} changed"
        if old["identity"] != new["identity"]:
            yield f"content of {called} changed"


def _by_use(value: Any) -> Any:
    """Return a list of components as a mapping by use, with numbers where one is used again; other values as they are."""
    if not (value and isinstance(value, list) and all(map(_is_component, value))):
        return value
    uses = [part["use"] for part in value]
    again = (uses[:number].count(use) for number, use in enumerate(uses))
    return {f"{use} ({count + 1})" if count else use: part for use, count, part in zip(uses, again, value, strict=True)}


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "libraries" in value


def _show(value: Any) -> str:
    """Return a value in words; "" if it is a digest, or too long to be read."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return "not set" if value is None else text if len(text) <= _LONGEST else ""
