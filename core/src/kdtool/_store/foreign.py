"""Files that others may have written: models, runs, recipes, plugins next to a recipe.

Opening a pipe or a device may never end, and a link may lead to a file that nobody meant to read or send.
"""

from __future__ import annotations

import os
import shutil
import stat
from io import BufferedReader
from pathlib import Path

from kdtool._errors import StorageError


class UnfitFileError(StorageError, OSError):
    """The file is a pipe or a device, is too large, or leads out of its folder."""


def open_regular(path: Path, limit: int | None = 64 << 20, inside: Path | None = None) -> BufferedReader:
    """Open a file that others may have written, to read its bytes. Since 0.1.

    Args:
        path: the file; links are followed.
        limit: the most bytes it may have; None for any number, if it is not read whole.
        inside: the folder that it must be in, links resolved. Links of the Hugging Face cache to its blobs are allowed.

    Raises:
        OSError: it cannot be opened, or is a folder. Also a `StorageError` if it is refused.
    """
    real, base = (Path(os.path.realpath(each or "/")) for each in (path, inside))  # unlike `resolve`, it never raises
    blobs = base.parents[1] / "blobs" if base.parent.name == "snapshots" else base
    if not (real.is_relative_to(base) or real.is_relative_to(blobs)):
        raise UnfitFileError(f"{path} leads out of {inside}; expected a file in it; copy the file there, or remove it")
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115 - Path's takes no opener
    status, problem = os.fstat(file.fileno()), "is a pipe or a device; expected a file"
    if stat.S_ISREG(status.st_mode):
        if limit is None or status.st_size <= limit:
            return file
        problem = f"has {status.st_size:,} bytes; expected {limit:,} at most"
    file.close()
    raise UnfitFileError(f"{path} {problem}; replace or remove it")


def copy_inside(source: Path, folder: Path, target: Path) -> None:
    """Copy a file below `folder`, or a folder with all its files, to the same place below `target`. Since 0.1.

    Raises:
        OSError: a file cannot be copied. Also a `StorageError` if it is not below `folder`, or not a file.
    """
    base, below = Path(os.path.abspath(folder)), Path(os.path.abspath(source))  # noqa: PTH100 - links stay as they are
    if not below.is_relative_to(base):  # unless one of them was resolved before
        base, below = Path(os.path.realpath(base)), Path(os.path.realpath(below))
    if below == base or not below.is_relative_to(base):
        raise UnfitFileError(f"{source} is not below {folder}; expected a file or a folder there; move it")
    for path in sorted(below.rglob("*")) if below.is_dir() else [below]:
        if path.is_symlink() or not path.is_dir():
            (target / path.relative_to(base)).parent.mkdir(parents=True, exist_ok=True)
            with open_regular(path, None, base) as file, (target / path.relative_to(base)).open("wb") as copy:
                shutil.copyfileobj(file, copy)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else a pipe is opened once someone writes to it
