"""Layers of a recipe: what it extends, the recipe itself, and all `--set` together, composed from the bottom up.

Sugar is removed before composing: `teacher: x` becomes `teachers: {teacher: {use: x}}`, and `train` gets named phases. A
layer that changes `use` drops the options of the plugin below and keeps the core's own keys. A list of names becomes a map
that replaces what is below. `false` removes an inherited entry; so does `null` for a key that holds one component. In a map,
`null`, `true` and `{}` mean defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdtool._contract.kind_table import TABLE, reserved_keys
from kdtool._errors import Problem, RecipeError
from kdtool._recipe.yaml import KeyPath, Node, Place, as_node, read_document, read_scalar, read_text

COLLECTIONS: Mapping[str, str] = {kind.key: kind.name for kind in TABLE if not kind.single}
"""Recipe keys that hold a map of named components, with their kind; the kind's name is the singular form."""

SINGLE: Mapping[str, str] = {kind.key: kind.name for kind in TABLE if kind.single}
"""Recipe keys that hold one component."""

SOURCE_KEYS = tuple(kind.key for kind in TABLE if kind.scope == "source")
"""Where data and signals come from: keys of the recipe that a phase may have of its own."""
PHASE_KEYS = ("trains", "steps", *(kind.key for kind in TABLE if kind.scope == "phase"), *SOURCE_KEYS)
_PLURAL = {kind: key for key, kind in COLLECTIONS.items()}


def as_written(path: KeyPath) -> str:
    """Write a composed key path as the user knows it: `teacher` for `teachers.teacher`, `train.steps` for one phase."""
    parts = [str(part) for part in path]
    if parts[:2] == ["train", "train"]:
        del parts[0]
    return ".".join(
        part
        for part, after in zip(parts, [*parts[1:], ""][: len(parts)], strict=True)
        if COLLECTIONS.get(part) != after
    )


def read_layers(path: Path) -> list[Node]:
    """Read a recipe and all that it extends, the lowest layer first.

    Raises:
        RecipeError: a file is missing or unreadable, or layers extend each other in a circle.
    """
    layers: list[Node] = []
    seen: list[Path] = []
    where = Place("", 0, 0, Path())
    while True:
        try:
            if path.resolve() in seen:
                raise _refused(where, f"{path.name} extends itself")
            seen.append(path.resolve())
            text = read_text(path)
        except (OSError, ValueError) as error:
            other_bytes = isinstance(error, UnicodeError)
            reason = "it is no UTF-8 text" if other_bytes else getattr(error, "strerror", "") or str(error)
            raise _refused(where, f"recipe {str(path)[:200]!r} cannot be read: {reason}") from error
        layers.insert(0, read_document(text, str(path), path.parent))
        base = layers[0].value.pop("extends", None)
        if base is None:
            return layers
        where = base.place
        if not isinstance(base.value, str):
            raise _refused(where, "is the path of a recipe")
        path = where.folder / base.value


def _refused(place: Place, message: str) -> RecipeError:
    return RecipeError([place.problem("extends" if place.file else "", message)])


def settings_layer(settings: Mapping[str, Any]) -> Node:
    """Make one layer from `--set` values: key paths to values; text is read as a recipe would read it.

    Raises:
        RecipeError: a key path is malformed or goes through a value.
    """
    root = Node({}, Place("--set", 0, 0, Path.cwd()))
    problems: list[Problem] = []
    for key, value in settings.items():
        place = Place(f"--set {key}", 0, 0, Path.cwd())
        *parents, last = _key_path(key)
        target: Any = root.value
        if not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in (*parents, last)) and parents != ["require"]:
            problems.append(root.place.problem(key, "is not a key path; write for example train.steps=100"))
            continue
        for part in parents:
            target = target.setdefault(part, Node({}, place)).value if isinstance(target, dict) else target
        if not isinstance(target, dict):
            problems.append(root.place.problem(key, "goes through a key that another --set gives a value"))
            continue
        target[last] = as_node(read_scalar(value) if isinstance(value, str) else value, place)
    if problems:
        raise RecipeError(problems)
    return root


def _key_path(key: str) -> list[str]:
    """Split a key path at its dots. Below `require` the rest is one key: names of measurements may hold any character."""
    first, _, rest = key.partition(".")
    return [first, rest] if first == "require" and rest else key.split(".")


def compose(layers: Sequence[Node]) -> Node:
    """Compose layers, lowest first, into one without sugar; places follow the layer that had the last word."""
    problems: list[Problem] = []
    result = Node({}, layers[-1].place)
    for layer in layers:
        result = _merge(result, _without_sugar(layer, problems), "")
    if problems:
        raise RecipeError(problems)
    return result


def _without_sugar(layer: Node, problems: list[Problem]) -> Node:
    entries = _entries(layer, "", problems)
    if "train" in entries:
        node = entries["train"]
        single = not isinstance(node.value, dict) or bool(node.value.keys() & _PHASE_SIGNS)
        phases = {"train": node} if single else node.value
        named = {name: "train." if single else f"train.{name}." for name in phases}
        plain = {name: _section(phase, named[name], problems) for name, phase in phases.items()}
        entries["train"] = Node(plain, node.place)
    if "control" in entries:
        entries["control"] = _section(entries["control"], "control.", problems)
    return Node(entries, layer.place)


_PHASE_SIGNS = {*PHASE_KEYS, *(COLLECTIONS[key] for key in PHASE_KEYS if key in COLLECTIONS)}


def _section(node: Node, prefix: str, problems: list[Problem]) -> Node:
    """Return a phase, or the control's settings, without sugar."""
    return Node(_entries(node, prefix, problems), node.place) if isinstance(node.value, dict) else node


def _entries(section: Node, prefix: str, problems: list[Problem]) -> dict[str, Node]:
    """Return the entries of a section without singular forms; `prefix` leads to it in a recipe as it is written."""
    found: dict[str, Node] = {}
    for key, node in section.value.items():
        singular = COLLECTIONS.get(key, "")
        if _PLURAL.get(key) in section.value:
            continue  # below, together with the plural form
        if singular not in section.value:
            found.update(_plain_entry(key, node))
            continue
        one = section.value[singular]
        if not (_is_off(one) or _is_off(node)):
            message = f"stands beside {key!r}: use one of them"
            remedy = f"`{singular}: false` beside {key!r} removes an inherited {singular}"
            problems.append(replace(one.place.problem(prefix + singular, message), remedy=remedy))
        found[key] = _joined(key, node, singular, one)
    return found


def _joined(key: str, several: Node, singular: str, one: Node) -> Node:
    """Return the entries of a plural key beside its singular form: one of the two is off, and removes what is inherited."""
    single, plain = _plain_entry(singular, one)[key], _plain_entry(key, several)[key]
    if _is_off(several):
        return several if _is_off(one) else Node(single.value, one.place, whole=True)
    if not isinstance(plain.value, dict):
        return plain  # refused later
    return Node({**single.value, **plain.value}, plain.place, whole=plain.whole)


def _is_off(node: Node) -> bool:
    return node.value is None or node.value is False


def _plain_entry(key: str, node: Node) -> dict[str, Node]:
    if key in _PLURAL:
        entry = Node(False, node.place) if _is_off(node) else _component(node)
        return {_PLURAL[key]: Node({key: entry}, node.place)}
    if key in SINGLE:
        return {key: node if _is_off(node) else _component(node)}
    named = _named(node.value) if isinstance(node.value, list) else node.value
    if key not in COLLECTIONS or not isinstance(named, dict):
        return {key: node}
    entries = {name: _component(entry) for name, entry in named.items()}
    return {key: Node(entries, node.place, whole=named is not node.value)}


def _named(items: list[Node]) -> dict[str, Node] | None:
    """Return a list of different names as a map; None for any other list, which stays what it is and is refused later."""
    named = {item.value: Node({}, item.place) for item in items if isinstance(item.value, str)}
    return named if len(named) == len(items) else None


def _component(node: Node) -> Node:
    if node.value is None or node.value is True:
        return Node({}, node.place)
    return Node({"use": node}, node.place) if isinstance(node.value, str) else node


def _merge(below: Node, above: Node, name: str) -> Node:
    if above.whole or not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    kept = below.value
    use = above.value.get("use")
    if use is not None and use.value != (kept["use"].value if "use" in kept else name):
        kept = {key: node for key, node in kept.items() if key in reserved_keys() and key != "use"}
    merged = {key: _merge(kept[key], node, key) if key in kept else node for key, node in above.value.items()}
    return Node({**kept, **merged}, above.place)
