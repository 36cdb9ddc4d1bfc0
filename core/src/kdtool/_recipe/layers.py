"""Layers of a recipe: those it extends, the recipe itself, and all `--set` together, composed from the bottom up.

Sugar is removed before composing: `teacher: x` becomes `teachers: {teacher: {use: x}}`, and `train` gets named phases. A
layer that changes `use` drops the options of the plugin below and its acknowledged licence, and keeps the core's own keys.
A list of names becomes a map that replaces what is below. `false` removes an inherited entry; so does `null` for a key that
holds one component, and in `--set`. In a map of a file, `null`, `true` and `{}` mean defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kdtool._contract.kind_table import TABLE, reserved_keys
from kdtool._errors import Problem, RecipeError
from kdtool._plugins.distributions import RECIPES
from kdtool._plugins.registry import find, list_plugins
from kdtool._recipe.yaml import MAXIMUM_DEPTH, KeyPath, Node, Place, as_node, read_document, read_scalar, read_text
from kdtool._text.names import did_you_mean

COLLECTIONS: Mapping[str, str] = {kind.key: kind.name for kind in TABLE if not kind.single}
"""Recipe keys that hold a map of named components, with their kind; the kind's name is the singular form."""

SINGLE: Mapping[str, str] = {
    **{kind.key: kind.name for kind in TABLE if kind.single},
    "reference": "teacher",
    "self": "corpus",
}
"""Recipe keys that hold one component, with its kind; `self` is a key of `control`."""

SOURCE_KEYS = tuple(kind.key for kind in TABLE if kind.scope == "source")
"""Keys for the sources of data and signals, which a phase may override."""
PHASE_KEYS = ("steps", "trains", *(kind.key for kind in TABLE if kind.scope != "run"))
_PLURAL = {kind: key for key, kind in COLLECTIONS.items()}


SHARED_KEYS = (*SOURCE_KEYS, *(kind.key for kind in TABLE if kind.scope == "run"))
"""Keys of components outside the phases."""
TOP_KEYS = (
    "name",
    "seeds",
    "terms_acknowledged",
    *SHARED_KEYS,
    "trainer",
    "optimizer",
    "train",
    "control",
    "reference",
    "require",
    "claims",
)
"""Keys of a recipe without sugar and `extends`."""


def as_written(path: KeyPath) -> str:
    """Write a composed key path as the user knows it: `teacher` for `teachers.teacher`, `train.steps` for one phase."""
    parts = [str(part) for part in path]
    if parts[:2] == ["train", "train"]:
        del parts[0]
    return ".".join(part for part, after in zip_longest(parts, parts[1:]) if COLLECTIONS.get(part, 0) != after)


def read_layers(path: Path) -> list[Node]:
    """Read a recipe and all that it extends, the lowest layer first.

    Raises:
        RecipeError: a file is missing or unreadable, or layers extend each other in a circle.
        PluginError: several packages bring a recipe of the name that is given in place of a file.
    """
    layers: list[Node] = []
    seen: list[Path] = []
    key, origin, named = "", Place("", 0, 0, Path()), str(path)
    while True:
        path = locate_recipe(origin.folder, named)
        try:
            if (
                real := Path(os.path.realpath(path))
            ) in seen:  # `resolve` fails for links in a circle up to Python 3.12
                raise RecipeError([origin.problem(key, f"{path.name} extends itself")])
            seen.append(real)
            text = read_text(path)
        except FileNotFoundError as error:
            files = (file for pattern in ("[!.]*.y*ml", "recipes/*.y*ml") for file in path.parent.glob(pattern))
            there = [*(file.relative_to(path.parent).as_posix() for file in files), *list_plugins(RECIPES)]
            remedy = did_you_mean(path.name, there, what="recipes") or "check the path"
            message = f"recipe {named[:200]!r} not found: no file {str(path.absolute())[:300]}"
            raise RecipeError([origin.problem(key, message, remedy)]) from error
        except (OSError, ValueError) as error:
            reason = (
                "not UTF-8 text" if isinstance(error, UnicodeError) else getattr(error, "strerror", "") or str(error)
            )
            message = f"recipe {str(path)[:200]!r} cannot be read: {reason}"
            raise RecipeError([origin.problem(key, message)]) from error
        try:
            layers.insert(0, read_document(text, str(path), path.parent))
            is_recipe = layers[0].value.keys() <= {*TOP_KEYS, *_PLURAL, "extends"}
        except RecipeError:
            is_recipe = False
            if seen[-1].is_relative_to(seen[0].parent):
                raise
        if not (is_recipe or seen[-1].is_relative_to(seen[0].parent)):  # its content is none of the reader's business
            message = f"{str(path)[:200]!r}, outside the recipe's folder, is not a recipe"
            raise RecipeError(
                [origin.problem(key, message, "name a recipe; `kdtool check` on the file itself shows its mistakes")]
            )
        base = layers[0].value.pop("extends", None)
        if base is None:
            return layers
        key, origin = "extends", base.place
        if not isinstance(base.value, str):
            raise RecipeError([origin.problem(key, "must be the path of a recipe, or the name of an installed one")])
        named = base.value


def locate_recipe(folder: Path, named: str) -> Path:
    """Return the file of a recipe, or of an installed one that a bare name such as `quickstart` means."""
    path = folder / named
    if named not in list_plugins(RECIPES) or path.is_file():
        return path
    return Path(str(resources.files(find(RECIPES, named).value) / f"{named}.yaml"))


def settings_layer(settings: Mapping[str, Any], known: list[Problem] | None = None) -> Node:
    """Make one layer from `--set` values: key paths to values; text is read as a recipe would read it.

    Raises:
        RecipeError: a key path is malformed or below another's value, or a value cannot be read; `known` gets it if given.
    """
    problems: list[Problem] = [] if known is None else known
    origin = Place("", 0, 0, Path.cwd(), from_settings=True)
    root = Node({}, origin)
    for key, value in settings.items():
        first, _, rest = key.partition(".")
        # below `require` the rest is one key: names of measurements may hold any character
        *parents, last = [first, rest] if first == "require" and rest else key.split(".")
        if len(parents) >= MAXIMUM_DEPTH:
            problems.append(origin.problem(f"{key[:60]}…", f"is nested deeper than {MAXIMUM_DEPTH} levels"))
            continue
        if parents != ["require"] and not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in (*parents, last)):
            problems.append(origin.problem(key, "is not a key path; write for example train.steps=100"))
            continue
        target: Any = root.value
        for part in parents:
            target = target.setdefault(part, Node({}, origin)).value if isinstance(target, dict) else target
        if not isinstance(target, dict):
            problems.append(origin.problem(key, "is below a key that another setting gives a value"))
        else:
            try:
                given = as_node(read_scalar(value) if isinstance(value, str) else value, origin)
                is_entry = given.value is None and parents and parents[-1] in COLLECTIONS
                target[last] = Node(False, origin) if is_entry else given
            except RecipeError as error:
                problems += [origin.problem(key, problem.message, problem.remedy) for problem in error.problems]
    if problems and known is None:
        raise RecipeError(problems)
    return root


def compose(layers: Sequence[Node], known: list[Problem] | None = None, notes: list[str] | None = None) -> Node:
    """Compose layers, lowest first, into one without sugar; places follow the layer that had the last word.

    `notes` gets a line for each acknowledged licence that is dropped.
    """
    problems: list[Problem] = [] if known is None else known
    result = Node({}, layers[-1].place)
    for layer in layers:
        above = _without_sugar(layer, problems)
        _forget_terms(result, above, [] if notes is None else notes)
        result = _merge(result, above, "")
    if problems and known is None:
        raise RecipeError(problems)
    return result


def _without_sugar(layer: Node, problems: list[Problem]) -> Node:
    """Return a layer with phases by name, and no singular keys."""
    sections = dict(layer.value)
    train = sections.get("train")
    if train is not None:
        is_single = not isinstance(train.value, dict) or bool(train.value.keys() & _PHASE_SIGNS)
        phases = {"train": train} if is_single else train.value
        paths = {name: "train." if is_single else f"train.{name}." for name in phases}
        sections["train"] = Node({name: _expand(phases[name], paths[name], problems) for name in phases}, train.place)
    if "control" in sections:
        sections["control"] = _expand(sections["control"], "control.", problems)
    return _expand(Node(sections, layer.place), "", problems)


_PHASE_SIGNS = {*PHASE_KEYS, *(COLLECTIONS[key] for key in PHASE_KEYS if key in COLLECTIONS)}


def _expand(section: Node, prefix: str, problems: list[Problem]) -> Node:
    """Return a section with maps of components; `prefix` leads to it in a recipe as it is written."""
    if not isinstance(section.value, dict):
        return section
    expanded = {key: _components(key, node) for key, node in section.value.items() if key not in _PLURAL}
    for singular, given in section.value.items():
        if (plural := _PLURAL.get(singular, "")) == "":
            continue
        several, entry = expanded.get(plural), Node(False, given.place) if _is_off(given) else _component(given)
        if several is None or _is_off(several):
            expanded[plural] = Node({singular: entry}, given.place, whole=several is not None)
        elif _is_off(given) and isinstance(several.value, dict):
            expanded[plural] = Node({singular: entry, **several.value}, several.place, several.whole)
        else:
            message = f"cannot be combined with {plural!r}: use one of them"
            remedy = f"`{singular}: false` together with {plural!r} removes an inherited {singular}"
            problems.append(given.place.problem(prefix + singular, message, remedy))
    return Node(expanded, section.place)


def _components(key: str, node: Node) -> Node:
    """Return an entry of a section with components as mappings; a list of different names becomes a map.

    Anything else stays and is refused later.
    """
    if key in SINGLE:
        return node if _is_off(node) else _component(node)
    is_list = isinstance(node.value, list)
    named = {item.value: item for item in node.value if isinstance(item.value, str)} if is_list else node.value
    if key not in COLLECTIONS or not isinstance(named, dict) or len(named) < len(node.value):
        return node
    entries = {name: Node({}, entry.place) if is_list else _component(entry) for name, entry in named.items()}
    return Node(entries, node.place, whole=is_list)


def _component(node: Node) -> Node:
    if node.value is None or node.value is True:
        return Node({}, node.place)
    return Node({"use": node}, node.place) if isinstance(node.value, str) else node


def _is_off(node: Node) -> bool:
    return node.value is None or node.value is False


def _forget_terms(below: Node, above: Node, notes: list[str]) -> None:
    """Remove the acknowledged licences of components that the layer above takes from another plugin."""
    terms, components = below.value.get("terms_acknowledged"), {*COLLECTIONS, *SINGLE} & below.value.keys()
    for key in components & above.value.keys() if terms and isinstance(terms.value, dict) else ():
        old, new = ({key: each} if key in SINGLE else each.value for each in (below.value[key], above.value[key]))
        for name in old.keys() & new.keys() if isinstance(old, dict) and isinstance(new, dict) else ():
            if _is_swapped(old[name], new[name], name):
                for entries, entry in ((terms, name), (terms, f"{key}.{name}"), (terms.value.get(key), name)):
                    if entries and isinstance(entries.value, dict) and (agreed := entries.value.pop(entry, None)):
                        component, use = as_written((key, name)), new[name].value["use"].value
                        notes.append(f"{component} is now {use!r}: the acknowledgement of {agreed.value!r} is dropped")


def _is_swapped(below: Node, above: Node, name: str) -> bool:
    """Return whether a component is of another plugin than in the layer below."""
    if not (isinstance(below.value, dict) and isinstance(above.value, dict) and "use" in above.value):
        return False
    return bool(above.value["use"].value != (below.value["use"].value if "use" in below.value else name))


def _merge(below: Node, above: Node, name: str) -> Node:
    if above.whole or not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return above
    kept = below.value
    if _is_swapped(below, above, name):
        # Settings of one plugin mean nothing to another one; weight, teacher and the like belong to the core.
        kept = {key: node for key, node in kept.items() if key in reserved_keys() and key != "use"}
    merged = {key: _merge(kept[key], node, key) if key in kept else node for key, node in above.value.items()}
    return Node({**kept, **merged}, above.place)
