"""Messages between the processes of a sandbox: frames, and the exceptions among their content.

A frame is a length of eight bytes, then that many bytes: never read to the end of a stream that others may hold open. JSON
is read and written by the C scanner and encoder of `json.loads` and `json.dumps`: each Python function that a forked process
is the first to call copies memory pages with reference counts.

Exceptions are sent as the names of builtin classes, with plain arguments.
"""

from __future__ import annotations

import builtins
import json
import os
from typing import Any

from kdtool_programs.inside.values import from_plain, to_plain

LARGEST = 256 * 2**20
"""Maximum bytes of a frame: programs return lists of millions of numbers."""
_SCAN: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined] # typeshed leaves it out
_ENCODE: Any = json.encoder.c_make_encoder(  # type: ignore[attr-defined] # typeshed leaves it out
    None, None, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


def encode_json(value: object) -> bytes:
    """Return a value as JSON; raise a TypeError for values that JSON cannot represent."""
    return "".join(_ENCODE(value, 0)).encode()


def decode_json(data: bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the data is not JSON.
    """
    text = data.decode()
    try:
        value, end = _SCAN(text, 0)
    except StopIteration as error:
        raise ValueError("not JSON") from error
    if end != len(text):
        raise ValueError("more than one value")
    return value


def read_frame(descriptor: int) -> bytes | None:
    """Return the next frame; None if the other end is closed.

    Raises:
        ValueError: the frame is larger than `LARGEST`.
    """
    head = _exactly(descriptor, 8)
    if head is None:
        return None
    size = int.from_bytes(head, "big")
    if size > LARGEST:
        raise ValueError(f"a message of {size:,} bytes exceeds the limit of {LARGEST:,}")
    return _exactly(descriptor, size)


def write_frame(descriptor: int, data: bytes) -> None:
    """Write a complete frame."""
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_message(descriptor: int) -> Any:
    """Return the JSON value of the next frame; None if the other end is closed."""
    frame = read_frame(descriptor)
    return None if frame is None else decode_json(frame)


def write_message(descriptor: int, message: object) -> None:
    """Write a JSON value as a frame."""
    write_frame(descriptor, encode_json(message))


def _exactly(descriptor: int, size: int) -> bytes | None:
    parts = []
    while size > 0:
        part = os.read(descriptor, min(size, 2**20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


_LONGEST_TEXT = 2000
_LONGEST_ARGUMENTS = 2**16
_EXCEPTIONS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, StopIteration)
}
"""Transferable exceptions, by name."""
_NAMES_OF_EXCEPTIONS = {id(kind): kind.__name__ for kind in _EXCEPTIONS.values()}


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
    kinds = [_NAMES_OF_EXCEPTIONS[id(kind)] for kind in type(error).__mro__ if id(kind) in _NAMES_OF_EXCEPTIONS]
    try:
        plain = to_plain(error.args, _refuse_opaque)
        short = len(encode_json(plain)) <= _LONGEST_ARGUMENTS
    except BaseException:
        short = False
    return [type(error).__name__, kinds, describe(error), plain if short else None]


def exception_of(name: str, kinds: list[str], text: str, plain: Any) -> Exception:
    """Return the nearest builtin exception that can be made; names are only looked up in a table."""
    given = [(text,)] if plain is None else [tuple(from_plain(plain, _refuse_opaque)), (text,)]
    nearest = [_EXCEPTIONS[one] for one in kinds if one in _EXCEPTIONS and (one != "Exception" or name == one)]
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


def _refuse_opaque(*_: Any) -> Any:
    raise ValueError("no plain value")
