"""Check of a GGUF file's header against the file, before libraries read it that trust its lengths."""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

import kdtool
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

__all__ = ["require_whole_gguf"]

_FORMATS = dict(zip(GGUFValueType, ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d"), strict=True))
"""Formats of `struct` by type; strings and arrays have none."""
_MOST_ENTRIES = 4_000_000
"""Entries of all arrays together: a vocabulary of 250,000 tokens has a million."""
_MOST_DIMENSIONS = 4


def require_whole_gguf(file: Path) -> None:
    """Refuse a file that is cut short, or whose header does not describe it.

    Raises:
        UsageError: it is such a file.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _Header(content).check()
    except (ValueError, OverflowError) as error:
        raise kdtool.UsageError(
            f"{file} is cut short or damaged: {error}; expected a whole GGUF file of version 2 or 3: download it again"
        ) from error


class _Header:
    """The header of a GGUF file, read from its beginning. Every method raises ValueError where the file is wrong."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._size = content, len(content)
        self._at = self._entries = 0
        self._order = "<"

    def check(self) -> None:
        if self._take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("I")
        if not version & 0xFFFF:  # written on a machine of the other byte order
            self._order, version = ">", int.from_bytes(struct.pack("<I", version), "big")
        if version not in (2, 3):
            raise ValueError(f"it has version {version}")
        tensors, keys = self._number("Q"), self._number("Q")
        values = dict(self._pair() for _ in range(keys))
        if not isinstance(values.get("general.architecture"), str):
            raise ValueError("the key general.architecture is missing")
        ends, sizes = [0], [tensors]
        for _ in range(tensors):
            end, dimensions = self._tensor()
            ends.append(end)
            sizes += dimensions
        step = values.get("general.alignment", 32)
        if not isinstance(step, int) or step < 1 or step & (step - 1):
            raise ValueError(f"general.alignment is {step}")
        whole = (self._at + step - 1) // step * step + max(ends)
        if whole > self._size:
            raise ValueError(f"it has {self._size:,} of {whole:,} bytes")
        for key, value in values.items():
            if key.endswith(("_count", "_length")) and "context" not in key and _exceeds(value, max(sizes)):
                raise ValueError(f"{key} is {value}, but no tensor has that size")

    def _pair(self) -> tuple[str, object]:
        return self._text(), self._value(self._number("I"))

    def _value(self, kind: int) -> object:
        if kind == GGUFValueType.STRING:
            return self._text()
        if kind != GGUFValueType.ARRAY:
            return self._number(_format(kind))
        kind, count = self._number("I"), self._number("Q")
        self._entries += count
        if self._entries > _MOST_ENTRIES:
            raise ValueError(f"its arrays have {self._entries:,} entries, more than {_MOST_ENTRIES:,}")
        if kind == GGUFValueType.STRING:
            for _ in range(count):
                self._take(self._number("Q"))
        else:
            self._take(count * struct.calcsize(_format(kind)))
        return None

    def _tensor(self) -> tuple[int, list[int]]:
        """Return where a tensor ends among all data, and its dimensions."""
        name, count = self._text(), self._number("I")
        if not 0 < count <= _MOST_DIMENSIONS:
            raise ValueError(f"the tensor {name} has {count} dimensions")
        dimensions = [self._number("Q") for _ in range(count)]
        values, bytes_ = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
        return self._number("Q") + math.prod(dimensions) // values * bytes_, dimensions

    def _text(self) -> str:
        return self._take(self._number("Q")).decode("utf-8")

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(self._order + form, self._take(struct.calcsize(form)))
        number: int = value
        return number

    def _take(self, count: int) -> bytes:
        if self._at + count > self._size:
            raise ValueError(f"it ends after {self._size:,} bytes, within its header")
        self._at += count
        return self._content[self._at - count : self._at]


def _format(kind: int) -> str:
    """Return the format of a number's type."""
    if not (form := _FORMATS[GGUFValueType(kind)]):
        raise ValueError("an array holds arrays")
    return form


def _exceeds(value: object, greatest: int) -> bool:
    return isinstance(value, int | float) and not value <= greatest
