"""GGUF files, checked while they are read: the library trusts every length in a header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import numpy as np
from gguf import GGUFReader, GGUFValueType

__all__ = ["read_gguf"]

_MOST_ENTRIES = 1_000_000
"""Entries of an array: the largest published vocabularies have 260,000 tokens and 600,000 merges."""


def read_gguf(file: Path) -> GGUFReader:
    """Return the content of a GGUF file.

    Raises:
        UsageError: it is cut short, or its header does not describe it.
    """
    try:
        reader = _Reader(file)
        prefix = f"{reader.fields['general.architecture'].contents()}."
        greatest = max(len(reader.tensors), *(int(tensor.shape.max()) for tensor in reader.tensors))
        for key, field in reader.fields.items():
            is_size = key.startswith(prefix) and key.endswith(("_count", "_length")) and "context" not in key
            if is_size and np.max(field.contents()) > greatest:
                raise ValueError(f"{key} is {field.contents()}, but no tensor has that size")
    except Exception as error:  # the library raises any kind
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise kdtool.UsageError(
            f"{file} is cut short or damaged ({reason}); expected a whole GGUF file: download it again"
        ) from error
    return reader


class _Reader(GGUFReader):  # type: ignore[misc]  # gguf ships no types
    """The library's reader, which ends at the end of the file and at arrays without end."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError(f"it ends after {len(self.data):,} bytes")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            kind, count = self._get(orig_offs, np.uint32)[0], self._get(orig_offs + 4, np.uint64)[0]
            if kind == GGUFValueType.ARRAY or count > _MOST_ENTRIES:
                raise ValueError(f"an array has {count} entries of the type {kind}")
        return super()._get_field_parts(orig_offs, raw_type)
