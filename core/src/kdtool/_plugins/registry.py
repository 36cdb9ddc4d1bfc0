"""Find what packages register in entry-point groups, and import what is used. Every group is found here, by one rule.

Listing, searching and suggesting import only `importlib.metadata`. A name that several packages register is refused.
`load` imports one class: by a registered name, as `module:Class`, or as `./file.py:Class` next to the recipe. It raises
`PluginError` with the distribution, the cause and the remedy for any error of the module, or if it ends the process.
A module's output while it is imported goes to standard error, so that it does not mix with machine-readable output.
"""

from __future__ import annotations

import hashlib
import linecache
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdtool._contract.kind_table import TABLE
from kdtool._errors import KdtoolError, PluginError, UsageError, cause_of
from kdtool._plugins.distributions import (
    DEFAULTS,
    LIBRARIES,
    STORES,
    Origin,
    canonical,
    find_known,
    find_misplaced,
    install_command,
    known_components,
    module_origin,
    origin_of,
    points,
    refusal,
)
from kdtool._store.files import open_regular
from kdtool._text.names import did_you_mean
from kdtool._text.terminal import escape_controls, print_line

if TYPE_CHECKING:
    from kdtool._contract.component import Component

GROUPS: Mapping[str, str] = {**{kind.name: kind.group for kind in TABLE}, "command": "kdtool.commands"}
"""Entry-point group of each kind; a command is a lazily imported click command, not a component."""


@dataclass(frozen=True)
class Entry:
    """A component, command or other plugin that a package registers; nothing is imported. Other groups are kinds, too."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    point: EntryPoint


_KINDS = {group: kind for kind, group in GROUPS.items()}


@cache
def _all_entries() -> dict[str, dict[str, list[Entry]]]:
    found: dict[str, dict[str, list[Entry]]] = {}
    for point in sorted(points(), key=lambda point: (point.name, origin_of(point.dist).name)):
        kind, name, origin = _KINDS.get(point.group, point.group), escape_controls(point.name), origin_of(point.dist)
        entry = Entry(kind, name, point.value, origin.name, origin.version, point)
        found.setdefault(kind, {}).setdefault(name, []).append(entry)
    return found


def entries_by_name(kind: str) -> Mapping[str, Sequence[Entry]]:
    """Return the registered components of a kind by name; more than one entry means that several register it."""
    return _all_entries().get(kind, {})


def list_kinds() -> list[str]:
    """Return all kinds, and the groups of stores and libraries that contain plugins."""
    return [*GROUPS, *sorted(group for group in _all_entries() if group == STORES or group.startswith(LIBRARIES))]


def list_plugins(group: str) -> list[str]:
    """Return the sorted names in an entry-point group, whose own name begins with `kdtool`. Since 0.1."""
    return [*entries_by_name(_KINDS.get(group, group))]


def load_plugin(group: str, name: str) -> Any:
    """Import what an installed package registers under one of the names that `list_plugins` returns. Since 0.1.

    Raises:
        UsageError: nothing of that name is installed.
        PluginError: several packages register it, or it cannot be imported.
    """
    kind = _KINDS.get(group, group)
    return import_point(_word(kind), name, find(kind, name).point)[0]


def call_plugin(group: str, name: str, *arguments: Any, **named: Any) -> Any:
    """Call what `load_plugin` returns with these arguments, and return the result. Since 0.1.

    Raises:
        PluginError: it failed other than by an error of `kdtool._errors`, or tried to end the process.
    """
    called = load_plugin(group, name)
    try:
        with exit_as_exception():
            return called(*arguments, **named)
    except (KdtoolError, KeyboardInterrupt):
        raise
    except BaseException as error:
        entry = find(_KINDS.get(group, group), name)
        what = "tried to end the process" if isinstance(error, SystemExit) else f"failed: {cause_of(error)}"
        raise PluginError(
            f"{_word(entry.point.group)} {name!r} ({entry.value} of {entry.distribution}) {what}"
        ) from error


def _word(kind: str) -> str:
    return kind.rpartition(".")[2].removesuffix("s") if "." in kind else kind


def defaults_of(kind: str) -> list[str]:
    """Return the names of the installed plugins that are defaults of their kind."""
    named = {point.value for point in points() if point.group == DEFAULTS and point.name.partition("-")[0] == kind}
    return [name for name, entries in entries_by_name(kind).items() if named & {entry.value for entry in entries}]


def default_of(kind: str) -> str | None:
    """Return the name of the installed plugin that is the default of its kind; of several, with a note, the project's."""
    found = sorted(defaults_of(kind), key=lambda name: (not is_of_project(kind, name), name))
    if len(found) > 1:
        choice = f"{found[0]} is used; to choose, write `{kind}: {{use: NAME}}` in the recipe"
        print_line(f"note: {' and '.join(found)} are each the default {kind}; {choice}")
    return found[0] if found else None


def is_of_project(kind: str, name: str) -> bool:
    """Return whether one of the project's packages registers this name."""
    ours = find_known(kind, name)
    return bool(ours and ours.package in {entry.distribution for entry in entries_by_name(kind).get(name, ())})


def find(kind: str, name: str) -> Entry:
    """Return the one registered entry of that name.

    Raises:
        UsageError: nothing of that name is installed.
        PluginError: several distributions register it.
    """
    entries = entries_by_name(kind).get(name, ())
    if len(entries) == 1:
        return entries[0]
    if entries:
        offers = " and ".join(f"{e.distribution} {e.version}" for e in entries)
        choices = " or ".join(f"`use: {e.value}` ({e.distribution})" for e in entries)
        choice = f"write {choices} in the recipe, or " if kind in {each.name for each in TABLE} else ""
        commands = " or ".join(f"`pip uninstall {e.distribution}`" for e in entries)
        raise PluginError(f"{offers} both register {_word(kind)} {name!r}; {choice}uninstall one of them: {commands}")
    if ours := find_known(kind, name):
        raise UsageError(f"{kind} {name!r} is not installed; get it with: {install_command(ours.requirement)}")
    there = {*entries_by_name(kind), *known_components().get(kind, {})}
    word, group = _word(kind), GROUPS.get(kind, kind).rpartition(".")[2]
    suggestion = did_you_mean(name, there, what=f"installed {group}") or f"no {word} is installed"
    hints = [suggestion, *(text for text in find_misplaced(GROUPS.values()) if repr(name) in text)]
    raise UsageError(f"no {word} is called {name!r}; {'; '.join(hints)}")


def load(kind: str, use: str, folder: Path, announce: Callable[[str], None]) -> Loaded:
    """Import the class that `use` names.

    Args:
        kind: the kind it must be of (not checked here).
        use: a registered name, `module:Class`, or a path to a Python file followed by `:Class`.
        folder: where a relative path starts.
        announce: called with a line before code from a local file runs.

    Raises:
        UsageError: the name is unknown.
        PluginError: it cannot be imported.
    """
    if ".py:" in use:
        return import_file(kind, os.path.expanduser(use), folder, announce)  # noqa: PTH111 - unlike Path's, it never raises
    point = EntryPoint(use, use, GROUPS[kind]) if ":" in use else find(kind, use).point
    cls, origin = import_point(kind, use, point)
    return Loaded(cls, origin.name, origin.version)


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
        with open_regular(folder / path_text) as file:
            path, source = (folder / path_text).resolve(), file.read()
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
    return Loaded(cls, "", "", path, hashlib.sha256(source).hexdigest())


@contextmanager
def _importing(what: str, explain: Callable[[BaseException], str]) -> Iterator[None]:
    late = threading.Timer(_PATIENCE, print_line, [f"still importing {what} …"])
    late.daemon = True
    with _IMPORT_LOCK, output_to_stderr(), exit_as_exception():
        late.start()
        try:
            yield
        except (PluginError, KeyboardInterrupt) as error:
            error.add_note(f"while importing {what}")
            raise
        except BaseException as error:
            raise PluginError(f"{what} cannot be imported: {explain(error)}") from error
        finally:
            late.cancel()


@contextmanager
def output_to_stderr() -> Iterator[None]:
    """Send standard output to standard error, also that of C code and of child processes, which do not use `sys.stdout`."""
    _flush()
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        with suppress(OSError):  # a process may lack standard streams
            output = os.dup(1)
            stack.callback(os.close, output)
            os.dup2(2, 1)
            stack.callback(os.dup2, output, 1)
            stack.callback(_flush)
        yield


def _flush() -> None:
    """Write what Python has buffered for standard output to where that leads now."""
    for stream in (sys.stdout, sys.__stdout__):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]


@contextmanager
def exit_as_exception() -> Iterator[None]:
    """Have `os._exit` in this thread raise SystemExit, so that its caller is named; forked children still end by it."""
    end, here = os._exit, (os.getpid(), threading.get_ident())
    os._exit = lambda status: sys.exit(status) if here == (os.getpid(), threading.get_ident()) else end(status)
    try:
        yield
    finally:
        os._exit = end


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
    for requirement in origin.requires:
        if canonical(re.split(r"[\s;<>=!~\[(]", requirement)[0]) == canonical(missing.partition(".")[0]):
            return f"; try: {install_command(requirement.partition(';')[0].strip())}"
    return f"; the module {missing!r} is missing, and the requirements of the package do not list it"


@dataclass(frozen=True)
class Loaded:
    """An imported component class with its origin. `source` is a local plugin's file, `digest` its SHA-256 as imported."""

    cls: type[Component]
    distribution: str
    version: str
    source: Path | None = None
    digest: str = ""
