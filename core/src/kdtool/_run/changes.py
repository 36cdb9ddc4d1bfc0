"""Differences between a node and the one of its name in another graph, in words: `loss ce added`, `ce.weight 1.0 → 0.2`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kdtool._run.graph import Node

_LONGEST = 60
"""Characters of a value that are shown."""
_NAMES = {"start": "start of documents", "shares": "shares of the corpora"}
_OPAQUE = {
    "tokenizer": "the tokenizer changed",
    "tokenizers": "a tokenizer changed",
    "chat": "the chat template changed",
    "licences": "licence terms changed",
    "subjects": "the measured models changed",
}
"""Parts whose values mean nothing to a reader."""


def changes(node: Node, before: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the differences of a node from the one of its name among `before`, a line each."""
    last = before[node.name]
    both = last["parts"], json.loads(json.dumps(node.parts))
    labels = both[0].get("terms", {}).keys() & both[1].get("terms", {}).keys()  # others: their loss is added or removed
    old, new = (dict(_name_parts(parts, labels)) for parts in both)
    lines = [line for name in {**old, **new} for line in _compare(name, old.get(name), new.get(name))]
    if not lines and both[0] != both[1]:
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


def _name_parts(parts: Mapping[str, Any], labels: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the parts with names that a reader of the recipe knows, of terms those of `labels`; components stay whole."""
    for key, value in parts.items():
        if key == "terms":
            for label in (label for label in value if label in labels):
                yield from _flat(value[label], label)
        elif key == "want":
            yield from ((f"recorded {name}", wanted) for name, wanted in value.items())
        elif isinstance(value, list) and all(map(_is_component, value)):
            uses = [f"{part['kind']} {part['use']}" for part in value]
            for number, (use, part) in enumerate(zip(uses, value, strict=True)):
                again = uses[:number].count(use)
                yield f"{use} ({again + 1})" if again else use, part
        elif isinstance(value, Mapping) and all(map(_is_component, value.values())):
            for path, part in value.items():
                yield " ".join(dict.fromkeys((part["kind"], path.rpartition(".")[2]))), part
        else:
            yield key, value


def _is_component(value: Any) -> bool:
    return isinstance(value, Mapping) and "libraries" in value


def _compare(name: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    if _is_component(old) or _is_component(new):
        yield from _compare_component(name, old, new)
    elif name in _OPAQUE:
        yield _OPAQUE[name]
    else:
        yield f"{_NAMES.get(name, name)} {_show(old)} → {_show(new)}"


def _compare_component(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Iterator[str]:
    if old is None or new is None:
        yield f"{name} {'added' if old is None else 'removed'}"
        return
    if old["use"] != new["use"]:
        yield f"{name} {old['use']} → {new['use']}"
        return
    short = name.partition(" ")[2] or name
    settings = dict(_flat(old["config"], short)), dict(_flat(new["config"], short))
    for key in {**settings[0], **settings[1]}:
        before, after = (values.get(key) for values in settings)
        if before != after:
            yield f"{key} {_show(before)} → {_show(after)}"
    if old["version"] != new["version"]:
        yield f"{name} {old['version']} → {new['version']}"
    elif any(old[key] != new[key] for key in ("class", "distribution", "source")):
        yield f"code of {name} changed"
    for library in {**old["libraries"], **new["libraries"]}:
        if old["libraries"].get(library) != new["libraries"].get(library):
            yield f"code of {library} changed"
    if old["identity"] != new["identity"]:
        yield f"content of {name} changed"


def _flat(data: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings by dotted keys."""
    if not isinstance(data, Mapping):
        yield prefix, data
        return
    for key, value in data.items():
        yield from _flat(value, f"{prefix}.{key}")


def _show(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return "not set" if value is None else text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}…"
