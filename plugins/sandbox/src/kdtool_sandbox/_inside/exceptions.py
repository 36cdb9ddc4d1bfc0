"""Exceptions that go over from one side to the other: by the names of builtin classes, with plain arguments."""

from __future__ import annotations

import builtins
from typing import Any

from kdtool_sandbox._inside.frames import encoded
from kdtool_sandbox._inside.values import from_plain, to_plain

__all__ = ["Raised", "described", "exception_of", "told"]

_LONGEST_TEXT = 2000
_LONGEST_ARGUMENTS = 2**16
_KINDS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, StopIteration)
}
"""Exceptions that go over, by name."""
_NAMES = {id(kind): kind.__name__ for kind in _KINDS.values()}


class Raised(Exception):  # noqa: N818 (what it says is what the other side raised)
    """The other side raised an exception of no builtin kind; `kind` is what it is called there."""

    kind = ""


def described(error: BaseException) -> str:
    """Return an exception's text, whatever its `__str__` does."""
    try:
        return str(error)[:_LONGEST_TEXT]
    except BaseException:
        return ""


def told(error: BaseException) -> list[Any]:
    """Return what goes over of an exception: its class, the builtin ones that it extends, its text, and plain arguments."""
    kinds = [_NAMES[id(kind)] for kind in type(error).__mro__ if id(kind) in _NAMES]
    try:
        plain = to_plain(error.args, _refuse)
        short = len(encoded(plain)) <= _LONGEST_ARGUMENTS
    except BaseException:
        short = False
    return [type(error).__name__, kinds, described(error), plain if short else None]


def exception_of(name: str, kinds: list[str], text: str, plain: Any) -> Exception:
    """Return the nearest builtin exception that can be made; all that counts of the other side's are names in a table."""
    given = [(text,)] if plain is None else [tuple(from_plain(plain, _refuse)), (text,)]
    nearest = [_KINDS[one] for one in kinds if one in _KINDS and (one != "Exception" or name == one)]
    made = ([one for arguments in given for one in _made(kind, arguments)] for kind in (*nearest, Raised))
    found = next(filter(None, made))
    error = next((one for one in found if described(one) == text), found[0])
    if isinstance(error, Raised):
        error.kind = name
    return error


def _made(kind: type[Exception], arguments: tuple[Any, ...]) -> list[Exception]:
    try:
        return [kind(*arguments)]
    except Exception:
        return []


def _refuse(*_: Any) -> Any:
    raise ValueError("no plain value")
