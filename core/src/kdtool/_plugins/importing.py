"""Import plugins: from an entry point, or from a Python file next to the recipe (`use: ./focal.py:Focal`).

Whatever a module raises while it is imported ends in a `PluginError` that names it. Its output goes to standard error, so
that it does not mix with machine-readable output.
"""

from __future__ import annotations

import hashlib
import linecache
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

from kdtool._errors import PluginError, UsageError, cause_of
from kdtool._plugins.distributions import Origin, module_origin, origin_of, refusal
from kdtool._plugins.loaded import Loaded
from kdtool._plugins.project_packages import install_command
from kdtool._text.did_you_mean import did_you_mean
from kdtool._text.terminal import print_line

__all__ = ["import_file", "import_point"]

_IMPORT_LOCK = threading.RLock()
"""Held while foreign code is imported: standard output, which is redirected meanwhile, belongs to the whole process."""
_PATIENCE = 10.0
"""Seconds of an import after which a line names it."""
_VALUE = re.compile(r"\s*[\w.]+\s*:\s*[\w.]+\s*(\[[^]]*\]\s*)?")


def import_point(kind: str, use: str, point: EntryPoint) -> tuple[Any, Origin]:
    """Return what an entry point names, and its distribution.

    Raises:
        PluginError: it cannot be imported, or requires another version of kdtool.
    """
    dist = point.dist or module_origin(point.value.partition(":")[0])
    origin = origin_of(dist)
    if dist and (reason := refusal(dist)):
        raise PluginError(f"{kind} {use!r} cannot be used: {reason}")
    package = f" of {origin.name} {origin.version}" if origin.name else ""
    what = f"{kind} {use!r} (entry point {point.value!r}{package})"
    if _VALUE.fullmatch(point.value) is None:
        raise PluginError(f"{what} cannot be imported: an entry point names a class as `module:Class`")
    with _importing(what, lambda error: f"{cause_of(error)}{_remedy(error, origin)}"):
        return point.load(), origin


def import_file(kind: str, use: str, folder: Path, announce: Callable[[str], None]) -> Loaded:
    """Import `Class` from the file in `use` (`path.py:Class`, relative to `folder`), under a private module name.

    It cannot import files next to it, and they are not part of its fingerprint.

    Raises:
        UsageError: the file cannot be read.
        PluginError: it fails when imported (with file and line), or has no such class.
    """
    path_text, _, name = use.rpartition(":")
    try:
        path = (folder / path_text).resolve()
        source = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{kind} {use!r}: the file cannot be read: {error}") from error
    module_name = f"_kdtool_local_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}"
    with _importing(repr(use), lambda error: f"{path.name}:{_line(error, path)}: {cause_of(error)}"):
        if module_name not in sys.modules:
            announce(f"running code from {path_text} (the recipe's {kind})")
            _execute(module_name, path, source)
    module = sys.modules[module_name]
    cls = getattr(module, name, None)
    if cls is None:
        hint = did_you_mean(name, [key for key in vars(module) if not key.startswith("_")], what="it has")
        raise PluginError(f"{kind} {use!r}: {path_text} has no {name!r}; {hint}")
    return Loaded(cls, use, "", "", path, hashlib.sha256(source).hexdigest())


@contextmanager
def _importing(what: str, explain: Callable[[BaseException], str]) -> Iterator[None]:
    late = threading.Timer(_PATIENCE, print_line, [f"still importing {what} …"])
    late.daemon = True
    with _IMPORT_LOCK, redirect_stdout(sys.stderr):
        late.start()
        try:
            yield
        except (PluginError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise PluginError(f"{what} cannot be imported: {explain(error)}") from error
        finally:
            late.cancel()


def _execute(module_name: str, path: Path, source: bytes) -> None:
    module = ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module
    linecache.checkcache(str(path))
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102  # what the recipe names, as it was read
    except BaseException:
        del sys.modules[module_name]
        raise


def _line(error: BaseException, path: Path) -> int | None:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None


def _remedy(error: BaseException, origin: Origin) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if not missing:
        return f"; try: {install_command(origin.name, '--no-deps', '--force-reinstall')}" if origin.name else ""
    wanted = re.sub(r"[-_.]+", "-", missing.partition(".")[0]).lower()
    for requirement in origin.requires:
        if re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[(]", requirement)[0]).lower() == wanted:
            return f"; try: {install_command(requirement.partition(';')[0].strip())}"
    return f"; the module {missing!r} is missing, and the requirements of the package do not list it"
