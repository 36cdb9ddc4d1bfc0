"""Places in the records of a run, which others may see: relative to the run, `store:` for the store, `~` for the home.

Only `graph.json` holds the store's path on this machine. No tracker or report reads it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdtool._store.layout import GRAPH

_STORE, _HOME = "store:", "~"
_AS_WRITTEN = frozenset({"texts"})
"""Keys of texts of models and corpora, in which nothing is changed."""


class Places:
    """The folder of a run, its store, None if that is unknown, and the user's home."""

    def __init__(self, folder: Path, store: Path | None) -> None:
        self.folder = folder
        self.store = store
        marks = {str(folder): "."}
        with suppress(RuntimeError):  # no home
            marks.setdefault(str(Path.home()), _HOME)
        if store is not None:
            marks.setdefault(str(store), _STORE)
        self._marks = {path: mark for path, mark in marks.items() if len(Path(path).parts) > 1}
        longest = "|".join(re.escape(path) for path in sorted(self._marks, key=len, reverse=True))
        self._found = re.compile(rf"(?<![\w/\\.~-])({longest})(?![\w.-])([/\\]?)") if longest else None

    @classmethod
    def of(cls, folder: Path) -> Places:
        """Return the places of the run in `folder`, as its graph names them."""
        store = None
        with suppress(OSError, ValueError, LookupError, TypeError):
            store = Path(json.loads((folder / GRAPH).read_bytes())["store"])
        return cls(folder, store)

    def hide(self, value: Any) -> Any:
        """Return plain data in which paths and text name no folder of this machine."""
        if isinstance(value, Mapping):
            return {key: item if key in _AS_WRITTEN else self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        if isinstance(value, Path):
            return self.hide(str(value)).replace(os.sep, "/")
        return self._found.sub(self._mark, value) if isinstance(value, str) and self._found else value

    def _mark(self, found: re.Match[str]) -> str:
        mark = self._marks[found[1]]
        return "" if mark == "." and found[2] else mark + found[2]

    def find(self, path: Path) -> Path:
        """Return a path that `hide` has written, absolute where it is not below the run's folder."""
        if path.parts[:1] == (_STORE,) and self.store is not None:
            return self.store.joinpath(*path.parts[1:])
        return path.expanduser() if path.parts[:1] == (_HOME,) else path
