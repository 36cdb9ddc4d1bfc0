"""Layers of a recipe: what it extends, the recipe itself, and all `--set` together, composed from the bottom up.

Sugar is removed before composing, so that a layer may say `teacher: causal-lm` where the one below says
`teachers: {…}`-like mappings. A layer that changes `use` drops the options of the plugin below and keeps the core's own
keys. `false` switches an inherited entry off; `null`, `true` and `{}` mean defaults.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool._errors import Problem, RecipeError
from kdtool._recipe.yaml_text import Document, KeyPath, Place, read_document, read_scalar
from kdtool._registration import RESERVED_KEYS

__all__ = ["COLLECTIONS", "SINGLE", "compose", "read_layers", "settings_layer"]

COLLECTIONS: Mapping[str, str] = {
    "corpora": "corpus",
    "screens": "screen",
    "teachers": "teacher",
    "losses": "loss",
    "transforms": "transform",
    "weightings": "weighting",
    "evaluators": "evaluator",
    "exporters": "exporter",
    "trackers": "tracker",
}
"""Recipe keys that hold a map of named components, with their kind; the kind's name is the singular form."""

SINGLE: Mapping[str, str] = {
    "rows": "packer",
    "signals": "cache",
    "student": "student",
    "trainer": "trainer",
    "reporter": "reporter",
}
"""Recipe keys that hold one component."""

_SINGULAR_OF = {kind: key for key, kind in COLLECTIONS.items()}
_MAXIMUM_LAYERS = 10


def read_layers(path: Path) -> list[Document]:
    """Read a recipe and all that it extends, the lowest layer first.

    Raises:
        RecipeError: a file is missing or unreadable, or layers extend each other in a circle.
    """
    layers: list[Document] = []
    seen: list[Path] = []
    where = Problem("", "")
    while True:
        if path.resolve() in seen or len(seen) >= _MAXIMUM_LAYERS:
            raise RecipeError(
                [Problem("extends", f"{path.name} extends itself or too many layers", where.file, where.line, 1)]
            )
        seen.append(path.resolve())
        document = _read_file(path, where)
        layers.insert(0, document)
        base = document.data.pop("extends", None)
        if base is None:
            return layers
        place = document.places["extends",]
        if not isinstance(base, str):
            raise RecipeError([Problem("extends", "is the path of a recipe", place.file, place.line, place.column)])
        where = Problem("extends", "", place.file, place.line, place.column)
        path = place.folder / base


def _read_file(path: Path, where: Problem) -> Document:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else "is not UTF-8 text"
        message = f"recipe {str(path)!r} cannot be read: {reason}"
        raise RecipeError([Problem(where.key, message, where.file, where.line, where.column)]) from error
    return read_document(text, str(path), path.parent)


def settings_layer(settings: Mapping[str, Any]) -> Document:
    """Make one layer from `--set` values: key paths to values; text is read as a recipe would read it.

    Raises:
        RecipeError: a key path is malformed or goes through a value.
    """
    document = Document({})
    problems: list[Problem] = []
    for key, value in settings.items():
        path = tuple(key.split("."))
        if not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in path):
            problems.append(Problem(key, "is no key path; write for example teacher.use=causal-lm", "--set"))
            continue
        target = document.data
        for depth, part in enumerate(path):
            document.places.setdefault(path[: depth + 1], Place(f"--set {key}", 0, 0, Path.cwd()))
            if depth == len(path) - 1:
                target[part] = read_scalar(value) if isinstance(value, str) else value
                break
            if not isinstance(target.setdefault(part, {}), dict):
                problems.append(
                    Problem(
                        key, f"goes through {'.'.join(path[: depth + 1])}, which another --set gives a value", "--set"
                    )
                )
                break
            target = target[part]
    if problems:
        raise RecipeError(problems)
    return document


def compose(layers: Sequence[Document]) -> Document:
    """Compose layers, lowest first, into one document without sugar; places follow the layer that had the last word."""
    result = Document({})
    problems: list[Problem] = []
    for layer in layers:
        plain = _without_sugar(layer, problems)
        result.data = _merge(result.data, plain.data, ())
        result.places.update(plain.places)
    if problems:
        raise RecipeError(problems)
    return result


def _without_sugar(document: Document, problems: list[Problem]) -> Document:
    """Write one-component keys as maps: `teacher: x` becomes `teachers: {teacher: {use: x}}`, and `train` gets phases."""
    result = Document({}, {})
    for key, value in document.data.items():
        if key == "train":
            _copy_phases(document, value, result)
        elif key == "control" and isinstance(value, Mapping):
            _copy_section(document, ("control",), value, result, ("control",))
        else:
            _copy_entry(document, (key,), value, result, ())
    both = {kind: plural for kind, plural in _SINGULAR_OF.items() if kind in document.data and plural in document.data}
    for kind, plural in both.items():
        place = document.places[kind,]
        problems.append(
            Problem(kind, f"stands beside {plural!r}: use one of them", place.file, place.line, place.column)
        )
    return result


def _copy_phases(document: Document, value: Any, result: Document) -> None:
    if not isinstance(value, Mapping) or _is_phase(value):
        phases: Mapping[str, Any] = {"train": value}
        sources: Mapping[str, KeyPath] = {"train": ("train",)}
    else:
        phases, sources = value, {name: ("train", name) for name in value}
    result.data["train"] = {}
    result.places["train",] = document.places.get(("train",), Place("", 0, 0, Path()))
    for name, phase in phases.items():
        target = ("train", name)
        if isinstance(phase, Mapping):
            _copy_section(document, sources[name], phase, result, target)
        else:
            _put(document, sources[name], phase, result, target)


def _is_phase(value: Mapping[str, Any]) -> bool:
    return bool(
        value.keys() & {"losses", "loss", "steps", "transforms", "transform", "weightings", "weighting", "trainer"}
    )


def _copy_section(
    document: Document, source: KeyPath, value: Mapping[str, Any], result: Document, target: KeyPath
) -> None:
    _put(document, source, {}, result, target)
    for key, entry in value.items():
        _copy_entry(document, (*source, key), entry, result, target)


def _copy_entry(document: Document, source: KeyPath, value: Any, result: Document, target: KeyPath) -> None:
    """Copy one key of the recipe or of a phase, as a map of components where it holds components."""
    key = str(source[-1])
    if key in _SINGULAR_OF:
        plural = _SINGULAR_OF[key]
        _put(document, source, {}, result, (*target, plural))
        _put_component(document, source, value, result, (*target, plural, key))
    elif key in COLLECTIONS:
        named = value if isinstance(value, Mapping) else dict.fromkeys(value) if _is_names(value) else None
        if named is None:
            _put(document, source, value, result, (*target, key))
            return
        _put(document, source, {}, result, (*target, key))
        for name, entry in named.items():
            _put_component(document, (*source, name), entry, result, (*target, key, name))
    elif key in SINGLE:
        _put_component(document, source, value, result, (*target, key))
    else:
        _put(document, source, value, result, (*target, key))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _put_component(document: Document, source: KeyPath, value: Any, result: Document, target: KeyPath) -> None:
    if value is None or value is True:
        value = {}
    elif isinstance(value, str):
        value = {"use": value}
    _put(document, source, value, result, target)


def _put(document: Document, source: KeyPath, value: Any, result: Document, target: KeyPath) -> None:
    data: Any = result.data
    for part in target[:-1]:
        data = data[part]
    data[target[-1]] = value
    for path, place in document.places.items():
        if path[: len(source)] == source:
            result.places[(*target, *path[len(source) :])] = place
    if source not in document.places:
        parents = [document.places[source[:n]] for n in range(len(source) - 1, 0, -1) if source[:n] in document.places]
        result.places.setdefault(target, parents[0] if parents else Place("", 0, 0, Path()))


def _merge(below: Any, above: Any, path: KeyPath) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if "use" in above and above["use"] != below.get("use", path[-1] if path else None):
        below = {key: value for key, value in below.items() if key in RESERVED_KEYS and key != "use"}
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merge(below[key], value, (*path, key)) if key in below else value
    return merged
