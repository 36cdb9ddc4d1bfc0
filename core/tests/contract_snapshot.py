"""The contract as plain text: every public name of kdtool with its hooks, fields, arguments and defaults.

`contract.json` next to the core's pyproject.toml holds it as last recorded; a test compares.

    python core/tests/contract_snapshot.py

records additions. It refuses changes that break plugins: these need the next minor version (from 1.0 on, the next major
one). Raise it as CONTRIBUTING.md says, delete the file and run this again.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import kdtool
import kdtool_testing
from kdtool._contract.component import calling_of

FILE = Path(__file__).resolve().parents[1] / "contract.json"
REQUIRED = "required "
"""Begins the text of what users of the contract must give: fields and arguments without default, abstract methods."""


_OF_LIBRARIES = {"Field": "pydantic's", "hookimpl": "pluggy's"}


def current() -> dict[str, str]:
    """Return the contract as it is: a line of text for every thing that a plugin can name."""
    found: dict[str, str] = {}
    for name in dir(kdtool):
        found.update(_described(name, getattr(kdtool, name)))
    for name in kdtool_testing.__all__:
        found.update(_described(f"testing.{name}", getattr(kdtool_testing, name)))
    return dict(sorted(found.items()))


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return what breaks plugins written for `old`, and what is merely new."""
    breaking = [f"{key} is gone (it was: {text})" for key, text in old.items() if key not in new]
    breaking += [f"{key} is now: {new[key]} (it was: {old[key]})" for key in old if new.get(key, old[key]) != old[key]]
    additions: list[str] = []
    for key, text in new.items():
        if key not in old:
            needed = text.startswith(REQUIRED) and _owner(key) in old
            (breaking if needed else additions).append(f"{key} is new: {text}")
    return breaking, additions


def released() -> dict[str, str]:
    """Return the contract as last recorded."""
    found: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def _owner(key: str) -> str:
    return key.partition("(")[0] if "(" in key else key.rpartition(".")[0]


def _described(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if name in _OF_LIBRARIES:
        yield name, _OF_LIBRARIES[name]
    elif inspect.isclass(value) and get_origin(value) is None:
        yield name, f"class({', '.join(base.__name__ for base in value.__bases__)})"
        yield from _members(name, value)
    elif inspect.isroutine(value):
        yield from _function(name, value)
    elif get_origin(value) is Annotated:
        yield name, f"Annotated[{get_args(value)[0].__name__}]"
    else:
        yield name, str(value).replace("typing.", "")


def _members(name: str, cls: type) -> Iterator[tuple[str, str]]:
    protocol = bool(getattr(cls, "_is_protocol", False))
    fields = {field.name: field for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
    for place, field in enumerate(sorted(fields.values(), key=lambda field: bool(field.kw_only))):
        if not field.name.startswith("_"):
            yield f"{name}.{field.name}", _field(place, field)
    named = getattr(cls, "_field_defaults", None)
    for attribute, annotation in inspect.get_annotations(cls).items():
        if attribute not in fields and not attribute.startswith("_"):
            default = (vars(cls) if named is None else named).get(attribute, inspect.Parameter.empty)
            yield f"{name}.{attribute}", (REQUIRED if protocol else "") + f"{annotation}{_default(default)}"
    for attribute, found in vars(cls).items():
        member = found.__func__ if isinstance(found, classmethod) else found
        hidden = attribute.startswith("_") and not (protocol and attribute in {"__len__", "__getitem__"})
        if hidden or attribute.startswith("test_") or attribute in fields:
            continue
        if attribute.startswith("kdtool_"):
            called = "".join(f" {key}" for key, holds in dataclasses.asdict(calling_of(member)).items() if holds)
            yield f"{name}.{attribute}", f"hook({', '.join(_arguments(member)[1:])}) -> {_returned(member)}{called}"
        elif isinstance(member, property):
            yield f"{name}.{attribute}", _need(member.fget, protocol) + f"property {_returned(member.fget)}"
        elif inspect.isfunction(member):
            for key, text in _function(f"{name}.{attribute}", member):
                yield key, (_need(member, protocol) if "(" not in key else "") + text


def _field(place: int, field: dataclasses.Field[Any]) -> str:
    default, where = field.default, "by name" if field.kw_only else f"{place}"
    if field.default_factory is not dataclasses.MISSING:
        default = f"{getattr(field.default_factory, '__name__', 'made')}()"
    elif default is dataclasses.MISSING:
        return f"{REQUIRED}{where}: {field.type}"
    return f"{where}: {field.type}{_default(default)}"


def _function(name: str, function: Any) -> Iterator[tuple[str, str]]:
    yield name, f"function -> {_returned(function)}"
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.name not in {"self", "cls"}:
            where = "by name" if parameter.kind is parameter.KEYWORD_ONLY else f"{place}"
            several = parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
            optional = several or parameter.default is not parameter.empty
            text = f"{where}: {parameter.annotation}{_default(parameter.default)}"
            yield f"{name}({parameter.name})", ("" if optional else REQUIRED) + text


def _arguments(function: Any) -> list[str]:
    return [f"{name}: {each.annotation}" for name, each in inspect.signature(function).parameters.items()]


def _returned(function: Any) -> str:
    return str(inspect.signature(function).return_annotation)


def _need(function: Any, protocol: bool) -> str:
    return REQUIRED if protocol or getattr(function, "__isabstractmethod__", False) else ""


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    if isinstance(value, frozenset) and value:  # in an order that no process chooses
        return f" = frozenset({{{', '.join(sorted(map(repr, value)))}}})"
    return f" = {value.__name__ if callable(value) else value!r}"


def main() -> int:
    """Write the file; return 1 if that would hide a breaking change."""
    new = current()
    if FILE.is_file():
        breaking, additions = differences(released(), new)
        if breaking:
            remedy = f"undo them, or raise the version (CONTRIBUTING.md), delete {FILE.name} and run this again"
            print(f"these changes break plugins; {remedy}:", *breaking, sep="\n  ", file=sys.stderr)
            return 1
        print(*(additions or ["nothing is new"]), sep="\n")
    FILE.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
