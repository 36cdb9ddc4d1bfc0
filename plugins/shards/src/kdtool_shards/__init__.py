"""What a teacher says about rows, recorded once and recalled row by row.

A cache says what it keeps of a signal (`Recording`), and gets the rest from here: shards that are whole or absent after a
kill (`record_rows`), rows found by key and checked before they are used (`RecordedRows`), what recording takes
(`recording_estimates`), and what a folder says of itself (`load_manifests`).
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
