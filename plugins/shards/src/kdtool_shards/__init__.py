"""Teacher signals in shards on disk, recorded once and recalled row by row.

A cache defines what to keep of a signal (`Recording`); this library does the rest. `record_rows` writes shards that are
complete or absent after a kill, `RecordedRows` finds rows by key and verifies them, `recording_estimates` predicts memory
and disk, and `load_manifests` reads the facts of a folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_shards._estimate import recording_estimates
from kdtool_shards._files import load_manifests
from kdtool_shards._record import Recording, record_rows

if TYPE_CHECKING:
    from kdtool_shards._recall import RecordedRows

__all__ = ["RecordedRows", "Recording", "load_manifests", "record_rows", "recording_estimates"]


def __getattr__(name: str) -> object:
    if name == "RecordedRows":
        from kdtool_shards._recall import RecordedRows

        return RecordedRows
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
