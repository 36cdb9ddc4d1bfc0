"""Types of settings that name files or folders, resolved against the folder of the recipe that holds them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

__all__ = ["RecipePath", "RecipePathOrName"]


def _path(value: Any, info: ValidationInfo) -> Any:
    """Return text as a path from the folder that the context holds for it; unchanged from the working directory."""
    folder = (info.context or {}).get(value) if isinstance(value, str) else None
    if folder is None:
        return value
    path = os.path.expanduser(value)  # noqa: PTH111 - unlike Path's, it never raises
    path = path if folder.absolute() == Path.cwd() else str(Path(folder.absolute(), path))
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):  # noqa: PTH110, PTH112, PTH113
        raise ValueError("names a pipe or a device, which may never end; name a file or a folder")
    return path


def _path_or_name(value: Any, info: ValidationInfo) -> Any:
    path = _path(value, info)
    is_path = isinstance(value, str) and (value.startswith(("./", "../", "~/")) or os.path.exists(path))  # noqa: PTH110
    return path if is_path else value


RecipePath = Annotated[Path, BeforeValidator(_path)]
"""A `Config` field for a file or folder. Relative paths start at the folder of the recipe file that names them, those of
`--set`, of recipes in Python and of defaults at the working directory. Records and fingerprints hold the path as written:
let `kdtool_identity` hash the content. Pipes and devices are refused: reading them may never end. Since 0.1."""
RecipePathOrName = Annotated[str, BeforeValidator(_path_or_name)]
"""A `Config` field for a path or a name, such as a model's on the Hub. It is a path, as in `RecipePath`, if it begins with
`./`, `../` or `~/`, or if it exists in the recipe's folder. Since 0.1."""
