"""Layers of a recipe: what it extends, the recipe itself, and all `--set` together, composed from the bottom up.

Sugar is removed before composing: `teacher: x` becomes `teachers: {teacher: {use: x}}`, and `train` gets named phases. A
layer that changes `use` drops the options of the plugin below and keeps the core's own keys. A list of names becomes a map
that replaces what is below. `false` switches an inherited entry off; `null`, `true` and `{}` mean defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool._errors import Problem, RecipeError
from kdtool._recipe.yaml_text import KeyPath, Node, Place, as_node, read_document, read_scalar, read_text
from kdtool._registration import RESERVED_KEYS

_SEVERAL = ("screen", "annotator", "teacher", "transform", "weighting", "evaluator", "exporter", "tracker")
COLLECTIONS: Mapping[str, str] = {"corpora": "corpus", "losses": "loss", **{f"{kind}s": kind for kind in _SEVERAL}}
"""Recipe keys that hold a map of named components, with their kind; the kind's name is the singular form."""

SINGLE: Mapping[str, str] = {
    "rows": "packer", "signals": "cache", "student": "student", "trainer": "trainer", "reporter": "reporter",
}  # fmt: skip
"""Recipe keys that hold one component."""

SOURCE_KEYS = ("corpora", "screens", "annotators", "rows", "teachers", "signals")
"""Where data and signals come from: keys of the recipe that a phase may have of its own."""
PHASE_KEYS = ("trains", "losses", "steps", "trainer", "transforms", "weightings", *SOURCE_KEYS)
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
        *parents, last = key.split(".")
        target: Any = root.value
        if not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in (*parents, last)):
            problems.append(root.place.problem(key, "is no key path; write for example teacher.use=causal-lm"))
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
    entries: dict[str, Node] = {}
    for key, node in layer.value.items():
        if key in _PLURAL and _PLURAL[key] in layer.value:
            problems.append(node.place.problem(key, f"stands beside {_PLURAL[key]!r}: use one of them"))
        if key == "train":
            single = not isinstance(node.value, dict) or bool(node.value.keys() & _PHASE_SIGNS)
            phases = {"train": node} if single else node.value
            entries[key] = Node({name: _section(phase) for name, phase in phases.items()}, node.place)
        else:
            entries.update({key: _section(node)} if key == "control" else _plain_entry(key, node))
    return Node(entries, layer.place)


_PHASE_SIGNS = {*PHASE_KEYS, *(COLLECTIONS[key] for key in PHASE_KEYS if key in COLLECTIONS)}


def _section(node: Node) -> Node:
    """Return a phase, or the control's settings, without sugar."""
    if not isinstance(node.value, dict):
        return node
    entries = (_plain_entry(key, entry) for key, entry in node.value.items())
    return Node({key: entry for found in entries for key, entry in found.items()}, node.place)


def _plain_entry(key: str, node: Node) -> dict[str, Node]:
    if key in _PLURAL:
        return {_PLURAL[key]: Node({key: _component(node)}, node.place)}
    if key in SINGLE:
        return {key: _component(node)}
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
        kept = {key: node for key, node in kept.items() if key in RESERVED_KEYS and key != "use"}
    merged = {key: _merge(kept[key], node, key) if key in kept else node for key, node in above.value.items()}
    return Node({**kept, **merged}, above.place)
