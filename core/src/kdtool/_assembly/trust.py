"""Addresses that a recipe may send keys and text to: the service's own, and those that the user trusts."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kdtool._contract.services import KEY_VARIABLE, SERVICE_URL
from kdtool._errors import Problem
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import Recipe, problem_at
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
