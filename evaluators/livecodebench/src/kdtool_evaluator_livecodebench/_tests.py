"""Tests of a problem. The published file contains the private ones as a pickle; it is parsed here, and never unpickled."""

from __future__ import annotations

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import kdtool

__all__ = ["LARGEST", "Case", "cases_of"]

LARGEST = 48 * 2**20
"""Characters of all tests of a problem together that fit into the sandbox."""
_LARGEST_UNPACKED = 2**30
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}
"""Instructions of a pickle around its one text; none of them calls or imports anything."""
_EXPECTED = "JSON, or base64 of a compressed pickle of one text, as LiveCodeBench publishes it"


class Case(NamedTuple):
    """One test: text to read and to print, or arguments and result as JSON."""

    input: str
    output: str
    testtype: Literal["stdin", "functional"]


def cases_of(text: str, location: str) -> Sequence[Case]:
    """Return the tests in a field of a record.

    Args:
        text: JSON, or the packed form of private tests.
        location: setting, file, line and field, for messages.

    Raises:
        kdtool.UsageError: the text is in another form, or would unpickle anything but one text.
    """
    tests = _json(text)
    if tests is None:
        tests = _json(_unpack(text, location))
    if not isinstance(tests, list) or not all(map(_is_case, tests)):
        raise kdtool.UsageError(
            f"{location}: not a list of tests with input, output and testtype; expected {_EXPECTED}; download the file again"
        )
    return [Case(each["input"], each["output"], each["testtype"]) for each in tests]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_case(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in ("input", "output"))
        and value.get("testtype") in ("stdin", "functional")
    )


def _unpack(text: str, location: str) -> str:
    """Return the text in base64 of a compressed pickle."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), _LARGEST_UNPACKED)
        if unpacker.unconsumed_tail:
            raise ValueError(f"more than {_LARGEST_UNPACKED:,} bytes")
        return _text_in_pickle(data)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise kdtool.UsageError(
            f"{location}: {error}; expected {_EXPECTED}; download the file again, or give one with tests as JSON"
        ) from error


def _text_in_pickle(data: bytes) -> str:
    """Return the one text of a pickle.

    Raises:
        ValueError: the pickle has other contents.
    """
    texts = []
    for instruction, argument, _ in pickletools.genops(data):
        if instruction.name in _TEXTS:
            texts.append(argument)
        elif instruction.name not in _AROUND:
            raise ValueError(f"its pickle contains {instruction.name}, which is refused since it may run code")
    if len(texts) != 1:
        raise ValueError(f"its pickle contains {len(texts)} texts")
    return str(texts[0])
