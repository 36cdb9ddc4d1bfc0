"""Errors of plugins, of the system and of libraries, turned into errors for the user that name the component.

Guards around hooks blame the component that they call; the innermost one wins. The engine blames a component for its
result, if that fails later. The Python API and the command line both use `translate_errors`, so that a lack of memory or
disk is the same error wherever it happens.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdtool._contract.run_info import Owner
from kdtool._errors import (
    KdtoolError,
    MemoryExceededError,
    PluginError,
    StorageError,
    UsageError,
    cause_of,
    is_interrupt,
)
from kdtool._plugins.distributions import points


@contextmanager
def blame(owner: Owner | None, hook: str) -> Iterator[None]:
    """Note on any exception from the block that `owner` raised it in `hook`, as `note_owner` does."""
    try:
        try:
            yield
        except SystemExit as error:
            raise PluginError(f"tried to end the process by sys.exit({error.code!r})") from error
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        note_owner(error, owner, hook)
        raise


def note_owner(error: BaseException, owner: Owner | None, hook: str) -> None:
    """Note on an exception that `owner` raised it in `hook`, unless it already names a component or is Ctrl-C."""
    if owner is not None and owner_of(error) is None and not is_interrupt(error):
        notes = [*getattr(error, "__notes__", ()), f"raised by {owner} in {hook}"]
        vars(error).update(__kdtool_owner__=owner, __notes__=notes)  # also if the class refuses to be changed


def owner_of(error: BaseException) -> Owner | None:
    """Return the component that raised `error`, if one did."""
    owner = getattr(error, "__kdtool_owner__", None)
    return owner if isinstance(owner, Owner) else None


_TORCH_SAYS = ("DefaultCPUAllocator: ", "CUDA out of memory", "MPS backend out of memory")
_FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EEXIST, *_ABSENT}


def place_of(error: BaseException) -> str:
    """Return "file:line" of a local file that raised, "folder/file:line" of an installed plugin; "" if neither did."""
    plugins = {point.value.partition(":")[0].partition(".")[0] for point in points()} - {"kdtool"}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package, file = str(frame.f_globals.get("__name__", "")).partition(".")[0], Path(frame.f_code.co_filename)
        if package.startswith("_kdtool_local_"):
            return f"{file.name}:{line}"
        if package in plugins:
            return f"{file.parent.name}/{file.name}:{line}"
    return ""


def describe(error: BaseException) -> str:
    """Return the message of an error for the user, with the component that raised it unless the message names it."""
    owner, text = owner_of(error), str(error)
    return f"{text}\n  in {owner}" if owner is not None and str(owner) not in text else text


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory was exceeded: Python's own error, or torch's on any device. Torch is not imported."""
    classes = {f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__}
    if "builtins.MemoryError" in classes or "torch.OutOfMemoryError" in classes:
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TORCH_SAYS)


@contextmanager
def using(owner: Owner, what: str) -> Iterator[None]:
    """Run code of a plugin outside of hooks: its class, its settings, its constructor.

    Raises:
        PluginError: it raised anything but a `KdtoolError` or a lack of memory.
    """
    with blame(owner, what):
        try:
            yield
        except KdtoolError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            location = place_of(error)
            raise PluginError(f"{owner} failed in {what}: {cause_of(error)}{location and f' ({location})'}") from error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn a lack of memory or disk, or a path that is too long, into an error for the user.

    Raises:
        UsageError: a path is longer than the system allows.
        MemoryExceededError: there was not enough memory.
        StorageError: a disk was full or read-only, or kdtool may not write somewhere.
    """
    try:
        yield
    except KdtoolError:
        raise
    except Exception as error:
        if out_of_memory(error):
            who = owner_of(error) or "kdtool itself"
            first = (str(error).strip().splitlines() or ["MemoryError"])[0]
            remedy = "A smaller batch, shorter rows or a smaller model need less. Finished work is kept."
            raise MemoryExceededError(f"not enough memory in {who}: {first}\n  {remedy}") from error
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            start = str(error.filename or "a path")[:200]
            raise UsageError(f"{start}… is longer than this system allows; choose a shorter name or folder") from error
        if reason := _unwritable(error):
            file, what, remedy = getattr(error, "filename", None), "write", "make room"
            if getattr(error, "errno", None) in _ABSENT:  # which does not tell a file to read from one to write
                what, remedy = "read or write", "restore the file, create the folder above it,"
            kept = f"Finished stages are kept; {remedy} or choose another folder, then run the same command again"
            owner = owner_of(error)
            who = f" (in {owner})" if owner else ""
            raise StorageError(f"cannot {what}{f' {file}' if file else ''}: {reason}{who}. {kept}") from error
        raise


def _unwritable(error: Exception) -> str:
    """Return the system's words for a full disk, or for kdtool's own write that was refused; "" for other errors.

    Libraries that write weights report a full disk as their own errors, which contain these words.
    """
    if not isinstance(error, OSError):
        return next((words for words in map(os.strerror, _FULL) if words in str(error)), "")
    refused = error.errno in _REFUSED and owner_of(error) is None
    return error.strerror or str(error) if refused or error.errno in _FULL else ""
