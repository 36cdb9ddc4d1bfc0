"""Objects in a folder that several machines share, such as an NFS mount."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import kdtool

__all__ = ["FolderObjects"]

_WRITING = ".writing-"


class FolderObjects:
    """Objects as files below `root`, each written under a temporary name, then renamed or, if it must be new, linked."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> bytes:
        """Return the content of an object."""
        with self._errors():
            return (self._root / key).read_bytes()

    def write(self, key: str, content: bytes) -> None:
        """Write an object, or replace it."""
        with self._errors(), self._beside(key, content) as beside:
            beside.replace(self._root / key)

    def create(self, key: str, content: bytes) -> bool:
        """Write a new object; return whether the object now has this content."""
        with self._errors(), self._beside(key, content) as beside:
            try:
                (self._root / key).hardlink_to(beside)
            except FileExistsError:
                return (self._root / key).read_bytes() == content
            return True

    def list(self, prefix: str) -> dict[str, int]:
        """Return sizes in bytes of all objects below a prefix, by key."""
        sizes = {}
        for folder, _, names in os.walk(self._root / prefix):
            for path in (Path(folder, name) for name in names if _WRITING not in name):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    sizes[path.relative_to(self._root).as_posix()] = path.stat().st_size
        return sizes

    def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        with self._errors():
            (self._root / key).unlink(missing_ok=True)

    @contextmanager
    def _beside(self, key: str, content: bytes) -> Iterator[Path]:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}{_WRITING}{secrets.token_hex(4)}")
        try:
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield beside
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise kdtool.ServiceError(
                f"the shared folder {self._root} cannot be used: {error.strerror}; mount it, make room or allow writing, "
                "and run again"
            ) from error
