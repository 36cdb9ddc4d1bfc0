"""Read the results of a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["read_results"]


def read_results(folder: Path) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """Return the recipe and the stages of a finished run.

    Raises:
        UsageError: the folder holds no finished run.
        StorageError: its results cannot be read.
    """
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return results["recipe"], results["stages"]
    except FileNotFoundError as error:
        raise kdtool.UsageError(
            f"{folder} holds no finished run: there is no {path}; name its recipe instead"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise kdtool.StorageError(f"{path} cannot be read: {error!r}; name the recipe instead") from error
