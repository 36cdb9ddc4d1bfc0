"""Permissions of a recipe on this machine: to send keys and text to addresses, and to run generated programs.

Addresses are a service's own, and those that the user trusts. `--no-sandbox` leaves out of a recipe what runs generated
programs.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kdtool._contract.component import KEY_VARIABLE, PATH_OR_NAME, SERVICE_URL, Component
from kdtool._errors import KdtoolError, Problem
from kdtool._plugins.registry import load
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import Recipe, problem_at
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import KeyPath

TRUST = "KDTOOL_TRUST_URL"
_PORTS = {"http": 80, "https": 443}
_MARKS = (SERVICE_URL, KEY_VARIABLE, PATH_OR_NAME)


class Marked(NamedTuple):
    """A text in a config whose field has a mark, or any path. `default` is the field's, `mark` None for a `RecipePath`."""

    mark: str | None
    key: KeyPath
    value: str
    default: Any


def refuse_untrusted(recipe: Recipe, key: KeyPath, config: BaseModel) -> Iterator[Problem]:
    """Yield a problem for each address and variable below a key that only the recipe names, see `kdtool.ServiceUrl`."""
    marked = [each for each in find_marked(config, key) if each.mark in {SERVICE_URL, KEY_VARIABLE}]
    origins = [origin_of(each.value) for each in marked if each.mark == SERVICE_URL]
    has_key = len(origins) < len(marked)
    listed = [entry.partition("=") for entry in os.environ.get(TRUST, "").replace(",", " ").split()]
    trusted = {entry for url, _, name in listed if (origin := origin_of(url)) for entry in (origin, f"{origin}={name}")}
    for mark, where, value, default in marked:
        position, defaults = recipe.places.get(where), default if isinstance(default, tuple) else (default,)
        if position is not None and position.from_settings:
            continue
        if mark == SERVICE_URL:
            origin = origin_of(value)
            wanted, example = [origin] if origin else [], "URL"
            is_safe = (origin != "" and origin in map(origin_of, defaults)) or (not has_key and _is_here(value))
            message = f"a recipe may not send {'a key' if has_key else 'text'} to {origin or 'this address'}"
        else:
            wanted, example, is_safe = [f"{origin}={value}" for origin in origins if origin], "NAME", value in defaults
            message = f"a recipe may not send the key in {value}, which is not the one of this service"
        if not (is_safe or (wanted and trusted.issuperset(wanted))):
            remedy = f"if you trust it, repeat it on the command line (--set {as_written(where)}={example})"
            remedy += f" or set the environment variable {TRUST}={','.join(wanted)}" if wanted else ""
            yield problem_at(recipe, where, message, remedy)


def origin_of(url: Any) -> str:
    """Return scheme, host and port of an address; "" if it has none, or if clients may read it differently."""
    text = str(url)
    try:
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return ""
    if not parts.hostname or parts.username is not None or {"\\", " "} & {*text} or not text.isprintable():
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port == _PORTS.get(parts.scheme) else f":{port}")


def _is_here(url: str) -> bool:
    host = urlsplit(origin_of(url)).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def find_marked(value: Any, key: KeyPath, parts: Sequence[Any] = (), default: Any = None) -> Iterator[Marked]:
    """Yield the paths and the marked texts in a config, except for words that a field allows. `parts` are its type's."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inner = [*field.metadata, *type_parts(field.annotation)]
            yield from find_marked(getattr(value, name), (*key, name), inner, field.default)
    elif isinstance(value, str | Path):
        marks = [None] if isinstance(value, Path) else [mark for mark in _MARKS if mark in parts and value not in parts]
        yield from (Marked(mark, key, str(value), default) for mark in marks)
    elif isinstance(value, Mapping | list | tuple | set | frozenset):
        entries: Any = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, entry in entries:
            yield from find_marked(entry, (*key, name), parts, default)


def is_marked(field: FieldInfo, mark: str) -> bool:
    """Return whether a field has a mark, also as one of several types."""
    return mark in [*field.metadata, *type_parts(field.annotation)]


def type_parts(annotation: Any) -> Iterator[Any]:
    """Yield the parts of a type: those of unions and collections, marks, and the words of a `Literal`."""
    yield annotation
    for part in get_args(annotation):
        yield from type_parts(part)


def without_sandbox(recipe: Path, settings: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Return settings that also leave out the evaluators and filters that need a sandbox, or lose what they compare with.

    A line names them. Components in files next to the recipe stay.

    Raises:
        RecipeError: the recipe is wrong.
    """
    loaded, classes = load_recipe(recipe, settings), dict[str, type[Component]]()
    for spec in loaded.shared:
        with suppress(KdtoolError):  # told with its place when the recipe is assembled
            if spec.kind in {"evaluator", "filter"} and ".py:" not in spec.use:
                classes[as_written(spec.key)] = load(spec.kind, spec.use, Path.cwd(), say).cls
    direct = [name for name, cls in classes.items() if cls.needs_sandbox]
    lost = lost_without(direct, classes)
    for names, why in ((direct, "needs a sandbox"), (lost, "has nothing left to compare with")):
        for name in names:
            say(f"--no-sandbox: {name} is left out, it {why}")
    return {**settings, **dict.fromkeys([*direct, *lost], "false")}


def lost_without(left_out: Collection[str], classes: Mapping[str, type[Component]]) -> list[str]:
    """Return the components that would have nothing left to compare with, by name."""
    kept = {name: cls for name, cls in classes.items() if name not in left_out}
    needing = [(name, cls.needs_hook) for name, cls in kept.items() if cls.needs_hook]
    return [name for name, hook in needing if not any(_has_own(each, hook) for each in kept.values())]


def _has_own(cls: type[Component], hook: str) -> bool:
    """Return whether a component implements a hook that its kind's base class also declares."""
    return any(hook in vars(base) for base in cls.__mro__ if not base.__module__.startswith("kdtool."))
