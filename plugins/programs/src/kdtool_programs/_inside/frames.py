"""Frames: a length of eight bytes, then that many bytes. Never read to the end of a stream that others may hold open.

JSON is read and written by the C scanner and encoder of `json.loads` and `json.dumps`: each Python function that a forked
process is the first to call copies memory pages with reference counts.
"""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["LARGEST", "decode_json", "encode_json", "read_frame", "read_message", "write_frame", "write_message"]

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
