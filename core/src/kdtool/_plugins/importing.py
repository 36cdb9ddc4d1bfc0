"""Importing foreign code: bounded in time, and whatever it does beside defining a class is its own mistake.

`import_point` imports what an entry point names, for the registry; `imported` runs any import, in a thread of its own, and
waits for it. So a module that hangs, calls `sys.exit`, or raises what no `except Exception` sees, ends in a `PluginError`
that names it; Ctrl-C stops the waiting at once; and what it prints goes to standard error, where it spoils nothing that
machines read.

`KDTOOL_IMPORT_SECONDS` says how long (60); 0 waits for ever and imports in the calling thread, for modules that insist on
the main one and for debuggers.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from contextvars import copy_context
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from kdtool._errors import PluginError, UsageError, cause_of
from kdtool._plugins.compatibility import refusal
from kdtool._plugins.distributions import Origin, module_origin, origin_of

__all__ = ["import_point", "imported"]

T = TypeVar("T")
LIMIT = "KDTOOL_IMPORT_SECONDS"
_SECONDS = 60.0
_PATIENCE = 5.0
_GLANCE = 0.1
_TURN = threading.RLock()
"""Held while foreign code is imported: standard output, which is redirected meanwhile, belongs to the whole process."""
_VALUE = re.compile(r"\s*[\w.]+\s*:\s*[\w.]+\s*(\[[^]]*\]\s*)?")


def import_point(kind: str, use: str, point: EntryPoint, say: Callable[[str], None]) -> tuple[Any, Origin]:
    """Return what an entry point names, and its distribution.

    Raises:
        PluginError: it cannot be imported, or its distribution cannot be used.
    """
    found = point.dist or module_origin(point.value.partition(":")[0])
    origin = origin_of(found) if found else Origin()
    what = f"{kind} {use!r} (entry point {point.value!r}" + (f" of {origin.name} {origin.version})" if found else ")")
    if reason := origin.trouble or (refusal(found) if found else ""):
        raise PluginError(f"{kind} {use!r} cannot be used: {reason}")
    if _VALUE.fullmatch(point.value) is None:
        raise PluginError(f"{what} cannot be imported: an entry point names a class as `module:Class`")

    def explain(error: BaseException) -> str:
        return f"{cause_of(error)}{_remedy(error, origin)}"

    try:
        return _present(point.value), origin
    except LookupError:
        return imported(what, point.load, explain, say), origin


def imported(what: str, act: Callable[[], T], explain: Callable[[BaseException], str], say: Callable[[str], None]) -> T:
    """Return what `act` returns, which imports foreign code.

    Args:
        what: the plugin with its distribution and entry point, as the subject of a sentence.
        act: imports and returns something.
        explain: says what an exception from `act` means to the user.
        say: is told when it takes long.

    Raises:
        PluginError: it raised, or took longer than the limit.
        UsageError: the limit is no number.
    """
    limit = _limit()
    found: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            found.append(act())
        except BaseException as error:
            raised.append(error)

    with _TURN, redirect_stdout(sys.stderr):
        if limit:
            _wait(what, work, limit, say)
        else:
            work()
    if found:
        return found[0]
    error = raised[0]
    if isinstance(error, PluginError) or (isinstance(error, KeyboardInterrupt) and not limit):
        raise error
    raise PluginError(f"{what} cannot be imported: {explain(error)}") from error


def _wait(what: str, work: Callable[[], None], limit: float, say: Callable[[str], None]) -> None:
    thread = threading.Thread(target=copy_context().run, args=(work,), name=f"import of {what}", daemon=True)
    start = time.monotonic()
    thread.start()
    told = False
    while thread.is_alive():
        thread.join(_GLANCE)  # in glances, since Windows delivers Ctrl-C only between them
        waited = time.monotonic() - start
        if not told and waited >= min(_PATIENCE, limit / 2) and thread.is_alive():
            say(f"still waiting for the import of {what}")
            told = True
        if waited >= limit and thread.is_alive():
            remedy = f"take it out of the recipe or uninstall it; {LIMIT}=600 waits longer"
            raise PluginError(f"{what} cannot be imported: it did not end within {limit:g} s; {remedy}")


def _present(value: str) -> Any:
    """Return what is imported already, without asking the import system, which may be busy with that very module.

    Raises:
        LookupError: it is not there yet.
    """
    module, _, names = value.partition(":")
    first, *others = names.strip().split(".")
    found = vars(sys.modules[module.strip()])[first]
    for name in others:
        found = vars(found)[name]
    return found


def _remedy(error: BaseException, origin: Origin) -> str:
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if not missing:
        return f"; try: pip install --force-reinstall {origin.name}" if origin.name else ""
    wanted = re.sub(r"[-_.]+", "-", missing.partition(".")[0]).lower()
    for requirement in origin.requires:
        if re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[(]", requirement)[0]).lower() == wanted:
            return f"; try: pip install '{requirement.partition(';')[0].strip()}'"
    return f"; the module {missing!r} is missing and is not among what its package says it needs"


def _limit() -> float:
    text = os.environ.get(LIMIT, "")
    try:
        limit = float(text) if text.strip() else _SECONDS
    except ValueError:
        limit = -1.0
    if not 0 <= limit < threading.TIMEOUT_MAX:
        raise UsageError(f"{LIMIT} is {text!r}; it is a number of seconds, or 0 to wait for ever")
    return limit
