"""Problems as they are published: lines of JSON, packed by gzip or not; and what the tests of EvalPlus need."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import kdtool

from kdtool_pass_at_k._problem import Limits

__all__ = ["ALLCLOSE", "EVALPLUS", "records_of", "unpacked"]

EVALPLUS = Limits(60.0, 4 * 2**30)
"""What EvalPlus allows for all inputs of a problem together."""
ALLCLOSE = """
import sys
try:
    import numpy
except ImportError:
    import types
    def allclose(out, exp, rtol=1e-05, atol=1e-08):
        if isinstance(exp, (list, tuple)):
            return len(out) == len(exp) and all(allclose(a, b, rtol, atol) for a, b in zip(out, exp))
        return out == exp or abs(out - exp) <= atol + rtol * abs(exp)
    numpy = types.ModuleType("numpy")
    numpy.allclose, numpy.ndarray = allclose, type("ndarray", (), {})
    numpy.float64 = numpy.float32 = float
    sys.modules["numpy"] = numpy
"""
"""Helpers for tests of EvalPlus, which compare floats by numpy's `allclose` and use nothing else of it: its formula stands
in where the sandbox has no numpy."""


def unpacked(file: Path | Traversable, key: str) -> tuple[bytes, str]:
    """Return a file's content and its SHA-256.

    Args:
        file: packed by gzip or not.
        key: the setting that names it, for messages.

    Raises:
        kdtool.UsageError: it cannot be read.
    """
    try:
        packed = file.read_bytes()
        content = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    except (OSError, EOFError) as error:
        raise kdtool.UsageError(f"{key}: {file} cannot be read: {error}") from error
    return content, hashlib.sha256(content).hexdigest()


def records_of(file: Path | Traversable, key: str, needed: Sequence[str], expected: str) -> Iterator[Mapping[str, Any]]:
    """Yield a file's records.

    Args:
        file: as for `unpacked`.
        key: the setting that names it.
        needed: the fields of a record.
        expected: the name of the file that is meant.

    Raises:
        kdtool.UsageError: it cannot be read, holds nothing, or a line is no such record.
    """
    lines = [line for line in unpacked(file, key)[0].decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        raise kdtool.UsageError(f"{key}: {file} holds no problem; expected is {expected}")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise kdtool.UsageError(
                f"{key}: {file}, line {number}: is no JSON: {error}; expected is {expected}"
            ) from error
        if not isinstance(record, Mapping) or not all(name in record for name in needed):
            raise kdtool.UsageError(
                f"{key}: {file}, line {number}: is no problem with {', '.join(needed)}; expected is {expected}"
            )
        yield record
