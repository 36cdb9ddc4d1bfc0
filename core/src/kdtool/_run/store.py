"""The store that runs share: where it is, and which runs use it.

Every run leaves a small file in `<store>/runs/` that names its folder, so that what it needs is known to be in use. The
runner calls `register_run`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from platformdirs import user_cache_path

from kdtool._run.artefacts import storage_errors
from kdtool._run.sealed import write_beside

__all__ = ["REGISTERED", "register_run", "store_folder"]

REGISTERED = "runs"


def store_folder(given: Path | str | None) -> Path:
    """Return the store: the one that is given, else KDTOOL_STORE, else in the user's cache."""
    return Path(given or os.environ.get("KDTOOL_STORE") or user_cache_path("kdtool") / "store").absolute()


def register_run(store: Path, folder: Path) -> None:
    """Note in the store that the run in `folder` uses it; called by whoever holds the run's lock.

    Raises:
        StorageError: the store cannot be written.
    """
    folder = folder.absolute()
    name = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = store / REGISTERED / f"{name}.json"
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_beside(path, json.dumps({"folder": str(folder)}))
