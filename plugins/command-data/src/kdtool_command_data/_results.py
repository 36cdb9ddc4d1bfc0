"""Read the results of a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kdtool

__all__ = ["read_results"]


def read_results(folder: Path) -> tuple[Mapping[str, Any], Sequence[kdtool.StageRecord]]:
    """Return the recipe and the stages of a finished run, with absolute paths.

    Raises:
        UsageError: the folder holds no finished run.
        StorageError: its results cannot be read.
    """
    try:
        results = kdtool.load(folder)
    except kdtool.UsageError as error:
        raise kdtool.UsageError(f"{folder} holds no finished run; name its recipe instead") from error
    except kdtool.StorageError as error:
        raise kdtool.StorageError(f"{error}; or name the recipe instead") from error
    return results.recipe, results.stages
