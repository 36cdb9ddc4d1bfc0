"""The remote level of a store: a bucket or shared folder, with the local folder as its cache.

A plugin registers a class with these methods under `kdtool.stores`, called with the address and the local folder. Keys are
`store/KIND/NAME` and `runs/RUN/KIND/NAME`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from platformdirs import user_cache_path

from kdtool._store.atomic_files import make_private, write_beside

_ADDRESS = "remote-address"
"""The file in a local folder that holds the address of its remote store."""


class Remote:
    """No remote level: nothing is fetched or kept elsewhere."""

    def has(self, key: str) -> bool:
        """Return whether an artefact is complete there."""
        return False

    def fetch(self, key: str, folder: Path) -> None:
        """Bring an artefact into its local folder, if it is complete there."""

    def keep(self, key: str, folder: Path) -> None:
        """Copy a local artefact there, unless it is there."""

    def lease(self, key: str, folder: Path, say: Callable[[str], None]) -> AbstractContextManager[object]:
        """Keep other machines from making an artefact during the block."""
        return nullcontext()

    def open_answers(self) -> None:
        """Bring the answers of teachers into the local folder, to be written by this machine until the run ends."""

    def run(self, name: str, folder: Path) -> AbstractContextManager[None]:
        """Hold a run during the block, and keep its files."""
        return nullcontext()

    def runs(self) -> list[Path]:
        """Return folders with the files of runs on other machines."""
        return []


def cache_folder(address: str) -> Path:
    """Return the local folder of a remote store, below KDTOOL_STORE_CACHE; a file in it holds the address."""
    parent = Path(os.environ.get("KDTOOL_STORE_CACHE") or user_cache_path("kdtool") / "stores").absolute()
    address = address.rstrip("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    folder = parent / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', address)}-{digest}"
    if not (folder / _ADDRESS).exists():
        make_private(parent)
        make_private(folder)
        write_beside(folder / _ADDRESS, address)
    return folder


def address_of(store: Path) -> str | None:
    """Return the address of the remote store of a local folder; None if it is only local."""
    file = store / _ADDRESS
    return file.read_text(encoding="utf-8") if file.is_file() else None
