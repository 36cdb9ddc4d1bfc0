"""Differences between a node and the one of its name in another graph, in words: `loss ce added`, `ce.weight 1.0 → 0.2`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kdtool._run.graph import Node

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
