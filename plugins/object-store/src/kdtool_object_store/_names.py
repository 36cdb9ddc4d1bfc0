"""Names of files in a store, which must not lead to other places on this machine."""

from __future__ import annotations

from pathlib import PurePosixPath

import kdtool

__all__ = ["checked_name"]


def checked_name(name: str) -> str:
    """Return the name of a file below a folder.

    Raises:
        StorageError: it leads out of the folder.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise kdtool.StorageError(
            f"the store lists the file {name!r}, but files must lie below their folder; delete what lists it in the store"
        )
    return name
