"""YAML with places: plain data beside the file, line and column of every key.

YAML 1.2 scalars (so `no` is text and `1e-4` a number); duplicate keys, anchors, tags, and documents that are too large or
too deep are refused. A syntax error is reported alone, since nothing after it can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdtool._errors import Problem, RecipeError

__all__ = ["Document", "KeyPath", "Place", "as_written", "dotted", "read_document", "read_scalar"]

KeyPath = tuple[str | int, ...]

MAXIMUM_BYTES = 1_000_000
MAXIMUM_DEPTH = 20
_REGULAR = ("screen", "teacher", "transform", "weighting", "evaluator", "exporter", "tracker")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Place:
    """Where a key was written. `folder` is where relative paths of its value start."""

    file: str
    line: int
    column: int
    folder: Path


@dataclass
class Document:
    """Plain data with the place of each key path."""

    data: dict[str, Any]
    places: dict[KeyPath, Place] = field(default_factory=dict)


def dotted(path: KeyPath) -> str:
    """Write a key path as the user would: `train.losses.ce`."""
    return ".".join(str(part) for part in path)


def as_written(path: KeyPath) -> str:
    """Write a composed key path as the user knows it: `teacher` for `teachers.teacher`, `train.steps` for one phase."""
    parts = list(path)
    if parts[:2] == ["train", "train"]:
        del parts[0]
    for singular, plural in (("corpus", "corpora"), ("loss", "losses"), *((n, n + "s") for n in _REGULAR)):
        for index in range(len(parts) - 1):
            if parts[index : index + 2] == [plural, singular]:
                del parts[index]
                break
    return dotted(tuple(parts))


def read_document(text: str, file: str, folder: Path) -> Document:
    """Read a recipe's text.

    Raises:
        RecipeError: the syntax is wrong, or something is refused (see the module's docstring).
    """
    reader = _Reader(file, folder)
    if len(text.encode(errors="replace")) > MAXIMUM_BYTES:
        raise RecipeError([Problem("", f"is larger than {MAXIMUM_BYTES:,} bytes", file)])
    try:
        reader.refuse_exotic(text)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError([_syntax_problem(error, file)]) from error
    if node is None:
        raise RecipeError([Problem("", "is empty", file, remedy="`kdtool schema` shows what a recipe may hold")])
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError([reader.problem(node, (), "a recipe is a mapping of keys to values")])
    data = reader.convert(node, ())
    if reader.problems:
        raise RecipeError(reader.problems)
    return Document(data, reader.places)


def read_scalar(text: str) -> Any:
    """Read one value as a recipe would: for `--set KEY=VALUE`. Flow collections are allowed (`[0, 1]`)."""
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        return _plain(text.strip())
    return read_document(f"value: {text}", "--set", Path.cwd()).data["value"]


def _plain(text: str) -> Any:
    if text.lower() in _WORDS and text in {text.lower(), text.capitalize(), text.upper()}:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text) and len(text) < 20:
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _syntax_problem(error: yaml.YAMLError, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    message = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return Problem("", f"cannot be read as YAML: {message}", file)
    return Problem("", f"cannot be read as YAML: {message}", file, mark.line + 1, mark.column + 1)


class _Reader:
    """Converts nodes, gathering places and problems."""

    def __init__(self, file: str, folder: Path) -> None:
        self.file = file
        self.folder = folder
        self.places: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []

    def refuse_exotic(self, text: str) -> None:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAXIMUM_DEPTH:
                raise RecipeError([self.problem(event, (), f"is nested deeper than {MAXIMUM_DEPTH} levels")])
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                message = "anchors and aliases are not used here; `extends:` shares settings"
                raise RecipeError([self.problem(event, (), message)])
            if getattr(event, "tag", None):
                raise RecipeError([self.problem(event, (), f"tags such as {event.tag} are not used here")])

    def problem(self, node: Any, path: KeyPath, message: str) -> Problem:
        mark = node.start_mark
        return Problem(dotted(path), message, self.file, mark.line + 1, mark.column + 1)

    def convert(self, node: yaml.Node, path: KeyPath) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self._place(item, (*path, index))
                items.append(self.convert(item, (*path, index)))
            return items
        return node.value if node.style else _plain(node.value)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Mapping[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(self.problem(key_node, path, "a key is a plain word"))
                continue
            key = key_node.value
            if key in data:
                first = self.places[*path, key]
                self.problems.append(
                    self.problem(key_node, (*path, key), f"is written twice, first in line {first.line}")
                )
            self._place(key_node, (*path, key))
            data[key] = self.convert(value_node, (*path, key))
        return data

    def _place(self, node: yaml.Node, path: KeyPath) -> None:
        mark = node.start_mark
        self.places[path] = Place(self.file, mark.line + 1, mark.column + 1, self.folder)
