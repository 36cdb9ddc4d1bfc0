"""Files in a run's folder between the process of the run and its workers: the request, and the events of each task."""

from __future__ import annotations

import json
import os
import platform
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from kdtool import _errors
from kdtool._errors import KdtoolError, RecipeError, UsageError, cause_of
from kdtool._plugins.attribution import describe
from kdtool._plugins.owner import owner_of
from kdtool._recipe.model import Recipe
from kdtool._store.atomic_files import PRIVATE, append_line, write_beside
from kdtool._store.layout import TASKS

_REQUEST = "request.json"
_MESSAGE = "kdtool_message"


def write_request(folder: Path, recipe: Recipe, store: Path, *, offline: bool, run: str) -> None:
    """Write how workers open the run: the recipe as it was given, and the store; `run` is unique to this process."""
    given, settings = recipe.given
    given = str(given.absolute()) if isinstance(given, Path) else given
    request = {"recipe": given, "settings": settings, "cwd": os.getcwd()}  # noqa: PTH109
    request |= {"store": str(store), "offline": offline, "run": run}
    write_beside(folder / TASKS / _REQUEST, json.dumps(to_jsonable_python(request, fallback=str)))


def read_request(folder: Path) -> dict[str, Any]:
    """Return the request of the run in `folder`."""
    request: dict[str, Any] = json.loads((folder / TASKS / _REQUEST).read_text(encoding="utf-8"))
    return request


def events_file(folder: Path, name: str, attempt: str) -> Path:
    """Return the file with the events of a task."""
    return folder / TASKS / f"{name.replace('/', '-')}-{attempt}.jsonl"


class TaskLog:
    """Writes the events of a task, a line at once; a `Log` of `kdtool._plugins.events`."""

    def __init__(self, file: Path) -> None:
        self._file = open(file, "ab", buffering=0, opener=lambda path, flags: os.open(path, flags, PRIVATE))  # noqa: SIM115

        self._said = ""

    def begin(self) -> None:
        """Write where the task is."""
        self._append({"host": platform.node(), "pid": os.getpid()})

    def write(self, hook: str, values: Mapping[str, Any]) -> None:
        """Write the call of a tracker's hook, unless the disk is full: the stage does not need it."""
        if hook == _MESSAGE:
            self._said = values["text"]
        with suppress(OSError):
            self._append({"hook": hook, "values": {name: value for name, value in values.items() if name != "run"}})

    def say(self, text: str) -> None:
        """Write a line for the user, unless it was the last message."""
        if text != self._said:
            self.write(_MESSAGE, {"text": text})

    def fail(self, error: BaseException) -> None:
        """Write why the task failed."""
        known = next((cls.__name__ for cls in type(error).__mro__ if cls.__module__ == _errors.__name__), "")
        text = describe(error) if known else f"{owner_of(error) or 'kdtool'}: {cause_of(error)}"
        trace = "".join(traceback.format_exception(error))
        self._append({"failed": known, "text": text, "trace": trace})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        append_line(self._file, json.dumps(to_jsonable_python(line, fallback=str)).encode() + b"\n")


class TaskEvents:
    """Reads the lines that a task's log has had since the last look."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Yield the new lines, without one that is half written."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:  # it has not begun
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        yield from map(json.loads, whole.splitlines())


def failure(title: str, line: Mapping[str, str]) -> KdtoolError:
    """Return the error of a task's last line as it was raised there, with its traceback as the cause."""
    cls = getattr(_errors, line["failed"], KdtoolError)
    text = line["text"] if line["failed"] else f"{title} failed: {line['text']}"
    error: KdtoolError = (UsageError if issubclass(cls, RecipeError) else cls)(text)
    error.__cause__ = RuntimeError(f"in the worker:\n{line['trace']}")
    return error
