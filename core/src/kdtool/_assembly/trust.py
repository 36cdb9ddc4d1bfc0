"""Permissions of a recipe on this machine: to send keys and text to addresses, and to run generated programs.

Addresses are a service's own, and those that the user trusts. `--no-sandbox` leaves out of a recipe what runs generated
programs.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kdtool._contract.component import KEY_VARIABLE, SERVICE_URL, Component
from kdtool._errors import KdtoolError, Problem
from kdtool._plugins.registry import load
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import Recipe, problem_at
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import KeyPath

TRUST = "KDTOOL_TRUST_URL"
_PORTS = {"http": 80, "https": 443}


class _Marked(NamedTuple):
    mark: str
    key: KeyPath
    value: str
    default: Any


def refuse_untrusted(recipe: Recipe, key: KeyPath, config: BaseModel) -> Iterator[Problem]:
    """Yield a problem for each address below a key that only the recipe names, see `kdtool.ServiceUrl`."""
    marked = list(_find(config, key))
    has_key = any(setting.mark == KEY_VARIABLE for setting in marked)
    trusted = {origin_of(text) for text in os.environ.get(TRUST, "").replace(",", " ").split()} - {""}
    for setting in marked:
        origin, position = origin_of(setting.value), recipe.places.get(setting.key)
        is_own = origin != "" and origin == origin_of(setting.default)
        is_safe = is_own or origin in trusted or (not has_key and _is_here(setting.value))
        if setting.mark == KEY_VARIABLE or is_safe or (position is not None and position.from_settings):
            continue
        message = f"a recipe may not send {'a key' if has_key else 'text'} to {origin or 'this address'}"
        remedy = f"if you trust it, repeat it on the command line (--set {as_written(setting.key)}=URL)"
        remedy += f" or set the environment variable {TRUST}={origin}" if origin else ""
        yield problem_at(recipe, setting.key, message, remedy)


def origin_of(url: Any) -> str:
    """Return scheme, host and port of an address; "" if it has none, or if clients may read it differently."""
    text = str(url)
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        return ""
    if not parts.hostname or parts.username is not None or {"\\", " "} & {*text} or not text.isprintable():
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port == _PORTS[parts.scheme] else f":{port}")


def _is_here(url: str) -> bool:
    host = (urlsplit(url).hostname or "") if origin_of(url) else ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _find(value: Any, key: KeyPath) -> Iterator[_Marked]:
    """Yield the marked values of a config and of those inside it."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            inner, path = getattr(value, name), (*key, name)
            texts = {path: inner} if isinstance(inner, str) else {}
            if isinstance(inner, tuple | list):
                texts = {(*path, number): text for number, text in enumerate(inner) if isinstance(text, str)}
            for mark in (mark for mark in (SERVICE_URL, KEY_VARIABLE) if texts and is_marked(field, mark)):
                yield from (_Marked(mark, where, text, field.default) for where, text in texts.items())
            yield from _find(inner, path)
    elif isinstance(value, dict | list | tuple):
        entries: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for name, entry in entries:
            yield from _find(entry, (*key, name))


def is_marked(field: FieldInfo, mark: str) -> bool:
    """Return whether a field has a mark, also as one of several types."""
    return mark in field.metadata or _has_mark(field.annotation, mark)


def _has_mark(annotation: Any, mark: str) -> bool:
    if mark in getattr(annotation, "__metadata__", ()):
        return True
    return any(_has_mark(part, mark) for part in get_args(annotation))


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
