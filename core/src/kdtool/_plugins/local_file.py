"""Components in a Python file beside the recipe: `use: ./focal.py:Focal`.

The file is imported under a stable private module name. Files beside it cannot be imported by it and are not part of its
fingerprint.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from kdtool._errors import PluginError, UsageError, cause_of
from kdtool._plugins.importing import imported
from kdtool._plugins.loaded import Loaded
from kdtool._text.did_you_mean import did_you_mean

_WHOLE: dict[str, ModuleType] = {}
"""Modules that were imported to their end, by name: `sys.modules` also holds those that another thread is importing."""


def load_local(kind: str, use: str, folder: Path, announce: Callable[[str], None]) -> Loaded:
    """Import `Class` from the file in `use` (`path.py:Class`, relative to `folder`).

    Raises:
        UsageError: the file cannot be read.
        PluginError: it fails when imported (with file and line), or has no such class.
    """
    path_text, _, name = use.rpartition(":")
    try:
        path = (folder / path_text).resolve()
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        source = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{kind} {use!r}: the file cannot be read: {error}") from error
    digest = hashlib.sha256(source).hexdigest()
    module_name = f"_kdtool_local_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}"
    module = _WHOLE.get(module_name)
    if module is None:
        announce(f"running code from {path_text} (the recipe's {kind})")
        module = _import(module_name, path, source, use, announce)
    cls = getattr(module, name, None)
    if cls is None:
        hint = did_you_mean(name, [key for key in vars(module) if not key.startswith("_")], what="it has")
        raise PluginError(f"{kind} {use!r}: {path_text} has no {name!r}; {hint}")
    return Loaded(cls, use, "", "", path, digest)


def _import(module_name: str, path: Path, source: bytes, use: str, say: Callable[[str], None]) -> ModuleType:
    def run() -> ModuleType:
        if module_name in _WHOLE:  # another thread imported it meanwhile
            return _WHOLE[module_name]
        module = ModuleType(module_name)
        module.__file__ = str(path)
        sys.modules[module_name] = module
        linecache.checkcache(str(path))
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102  # what the recipe names, as it was read
        sys.modules[module_name] = _WHOLE[module_name] = module
        return module

    def explain(error: BaseException) -> str:
        line = error.lineno if isinstance(error, SyntaxError) else _last_line(error, path)
        return f"{path.name}:{line}: {cause_of(error)}"

    try:
        return imported(repr(use), run, explain, say)
    except BaseException:
        sys.modules.pop(module_name, None)
        raise


def _last_line(error: BaseException, path: Path) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None
