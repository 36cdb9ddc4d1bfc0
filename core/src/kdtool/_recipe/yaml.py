"""YAML 1.2 in which every value has its place: `no` is text, and `1e-4` a number.

Duplicate keys, anchors, tags, and documents that are too large or too deep are refused. A syntax error is the only one
reported, since nothing after it can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import yaml

from kdtool._errors import Problem, RecipeError
from kdtool._store.files import open_regular

KeyPath = tuple[str | int, ...]

MAXIMUM_BYTES = 1_000_000
MAXIMUM_DEPTH = 20
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Place:
    """The place of something written. Relative paths start at `folder`. Line and column count from 1; 0 is unknown.

    `from_settings`: given with the command (`--set`), outside of any file.
    """

    file: str
    line: int
    column: int
    folder: Path
    from_settings: bool = False

    def problem(self, key: str, message: str, remedy: str = "") -> Problem:
        """Return a problem of a key at this place."""
        return Problem(key, message, self.file, self.line, self.column, remedy)

    def at(self, mark: Any) -> Place:
        """Return the place of one of YAML's marks in the same file."""
        return replace(self, line=mark.line + 1, column=mark.column + 1)


@dataclass(frozen=True)
class Node:
    """A value with its place: a scalar, a list of nodes, or a mapping of keys to nodes.

    A mapping that is `whole` replaces that of the layer below instead of being merged with it.
    """

    value: Any
    place: Place
    whole: bool = False

    def plain(self) -> Any:
        """Return the value as plain data."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value

    def places(self, path: KeyPath = ()) -> dict[KeyPath, Place]:
        """Return the place of every key path from here on."""
        entries: Any = self.value.items() if isinstance(self.value, dict) else ()
        entries = enumerate(self.value) if isinstance(self.value, list) else entries
        found = {path: self.place}
        for key, node in entries:
            found.update(node.places((*path, key)))
        return found


def as_node(data: Any, place: Place) -> Node:
    """Return plain data as nodes that are all at one place."""
    if isinstance(data, Mapping):
        return Node({str(key): as_node(value, place) for key, value in data.items()}, place)
    return Node([as_node(item, place) for item in data], place) if isinstance(data, list | tuple) else Node(data, place)


def read_text(path: Path) -> str:
    """Return a file's text, at most a little more than a recipe may hold.

    Raises:
        OSError: it cannot be read, or is a pipe or a device.
        ValueError: it is not UTF-8 text.
    """
    with TextIOWrapper(open_regular(path, None), "utf-8-sig") as file:
        return file.read(MAXIMUM_BYTES + 1)


def read_document(text: str, file: str, folder: Path) -> Node:
    """Read a recipe's text.

    Raises:
        RecipeError: the syntax is wrong, or something is refused (see the module's docstring).
    """
    origin = Place(file, 0, 0, folder)
    if len(text) > MAXIMUM_BYTES:
        raise RecipeError(
            [origin.problem("", f"is larger than {MAXIMUM_BYTES:,} characters", "split it by `extends:`")]
        )
    try:
        _refuse_exotic(text, origin)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = (origin.at(mark) if mark else origin).problem("", *_explain(error, text, mark))
        raise RecipeError([problem]) from error
    if not isinstance(root, yaml.MappingNode):
        message = "must be a mapping of keys to values" if root else "is empty"
        raise RecipeError([origin.problem("", message, "`kdtool schema` shows what a recipe may hold")])
    problems: list[Problem] = []
    document = _convert(root, "", origin, problems)
    if problems:
        raise RecipeError(problems)
    return document


def _explain(error: yaml.YAMLError, text: str, mark: Any) -> tuple[str, str]:
    """Return message and remedy for text that is not YAML."""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if "another document" in problem:
        return "starts a second YAML document; a recipe is one document", "remove the line `---`"
    if mark and text[mark.index : mark.index + 1] == "\t":
        return f"cannot be read as YAML: {problem}", "this is a tab; indent by spaces"
    return f"cannot be read as YAML: {problem}", ""


def read_scalar(text: str) -> Any:
    """Read one value as a recipe would: for `--set KEY=VALUE`. Flow collections are allowed (`[0, 1]`)."""
    if text.lstrip().startswith(("[", "{", '"', "'")):
        return read_document(f"value: {text}", "--set", Path.cwd()).plain()["value"]
    return _scalar(text.strip())


def _scalar(text: str) -> Any:
    if text in {text.lower(), text.capitalize(), text.upper()} and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _refuse_exotic(text: str, origin: Place) -> None:
    depth, message = 0, ""
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAXIMUM_DEPTH:
            message = f"is nested deeper than {MAXIMUM_DEPTH} levels"
        elif getattr(event, "anchor", None):  # of an alias, too
            message = "anchors and aliases are not supported; `extends:` shares settings"
        elif getattr(event, "tag", None):
            message = f"tags such as {event.tag} are not supported"
        if message:
            raise RecipeError([origin.at(event.start_mark).problem("", message)])


def _convert(node: yaml.Node, key: str, origin: Place, problems: list[Problem]) -> Node:
    """Return YAML's node as ours, gathering problems; `key` leads to it."""
    here = origin.at(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return Node([_convert(item, key, origin, problems) for item in node.value], here)
    if not isinstance(node, yaml.MappingNode):
        return Node(node.value if node.style else _scalar(node.value), here)
    entries: dict[str, Node] = {}
    for key_node, value_node in node.value:
        name = f"{key}.{key_node.value}" if key else str(key_node.value)
        there = origin.at(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(there.problem(key, "a key must be a plain word"))
        elif key_node.value in entries:
            first = entries[key_node.value].place.line
            problems.append(there.problem(name, f"is written twice, first in line {first}"))
        else:  # a value's place is its key's: that is what a message points at
            entries[key_node.value] = Node(_convert(value_node, name, origin, problems).value, there)
    return Node(entries, here)
