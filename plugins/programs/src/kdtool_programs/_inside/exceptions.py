"""Transfer exceptions between the two sides: by the names of builtin classes, with plain arguments."""

from __future__ import annotations

import builtins
from typing import Any

from kdtool_programs._inside.frames import encode_json
from kdtool_programs._inside.values import from_plain, to_plain

__all__ = ["Raised", "describe", "exception_of", "serialise_exception"]

_LONGEST_TEXT = 2000
_LONGEST_ARGUMENTS = 2**16
_KINDS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, StopIteration)
}
"""Transferable exceptions, by name."""
_NAMES = {id(kind): kind.__name__ for kind in _KINDS.values()}


class Raised(Exception):  # noqa: N818 (reads as "raised on the other side")
    """The other side raised an exception that is not builtin; `kind` is its class name there."""

    kind = ""


def describe(error: BaseException) -> str:
    """Return an exception's text; "" if its `__str__` fails."""
    try:
        return str(error)[:_LONGEST_TEXT]
    except BaseException:
        return ""


def serialise_exception(error: BaseException) -> list[Any]:
    """Return an exception's class name, its builtin base classes, its text, and its arguments if they are plain."""
    kinds = [_NAMES[id(kind)] for kind in type(error).__mro__ if id(kind) in _NAMES]
    try:
        plain = to_plain(error.args, _refuse)
        short = len(encode_json(plain)) <= _LONGEST_ARGUMENTS
    except BaseException:
        short = False
    return [type(error).__name__, kinds, describe(error), plain if short else None]


def exception_of(name: str, kinds: list[str], text: str, plain: Any) -> Exception:
    """Return the nearest builtin exception that can be made; names are only looked up in a table."""
    given = [(text,)] if plain is None else [tuple(from_plain(plain, _refuse)), (text,)]
    nearest = [_KINDS[one] for one in kinds if one in _KINDS and (one != "Exception" or name == one)]
    made = ([one for arguments in given for one in _instantiate(kind, arguments)] for kind in (*nearest, Raised))
    found = next(filter(None, made))
    error = next((one for one in found if describe(one) == text), found[0])
    if isinstance(error, Raised):
        error.kind = name
    return error


def _instantiate(kind: type[Exception], arguments: tuple[Any, ...]) -> list[Exception]:
    try:
        return [kind(*arguments)]
    except Exception:
        return []


def _refuse(*_: Any) -> Any:
    raise ValueError("no plain value")
