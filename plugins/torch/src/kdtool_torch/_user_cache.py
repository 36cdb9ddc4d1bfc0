"""Files in the user's cache: models, and measurements of this machine."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["cache_folder", "write_cached"]


def cache_folder() -> Path:
    """Return kdtool's folder for models in the user's cache; made when first written to."""
    import platformdirs

    return platformdirs.user_cache_path("kdtool", appauthor=False) / "models"


def write_cached(file: Path, text: str) -> None:
    """Write a file of the cache, completely or not at all. Failures are ignored: the content is computed again later."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".writing")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(text)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink()
            raise
