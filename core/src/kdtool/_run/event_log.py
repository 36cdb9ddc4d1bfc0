"""The events of a run as JSON Lines, `events.jsonl`: written by every run, and read again by `kdtool runs sync`.

A line is written at once and whole, so that a killed process loses at most the one that it was writing.
"""

from __future__ import annotations

import errno
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from kdtool._contract.licences import Licensed
from kdtool._contract.reporting import Tracker
from kdtool._contract.run_info import RunInfo
from kdtool._errors import cause_of
from kdtool._plugins.hook_specs import PREFIX
from kdtool._results.files import map_paths
from kdtool._results.places import Places
from kdtool._store.atomic_files import json_lines
from kdtool._store.layout import EVENTS

__all__ = ["Event", "EventLog", "read_events", "superseded_steps"]


class EventLog:
    """Appends events to `events.jsonl` in `folder`.

    Events that cannot be written are left out, with one line to `complain`; the run continues. `about` goes into the line of
    `run_start`. Places are written as in `Places`.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], complain: Callable[[str], None], store: Path | None = None
    ) -> None:
        self._path = folder / EVENTS
        self._places = Places(folder, store)
        self._about = about
        self._complain = complain
        self._file: FileIO | None = None
        self._failed = False

    def write(self, hook: str, values: Mapping[str, Any]) -> None:
        """Append the call of a tracker's hook; `values` are its arguments by name."""
        try:
            self._append(self._line(hook, values))
        except Exception as error:
            if not self._failed:
                self._failed = True
                self._complain(
                    f"{self._path} lacks events of this run: {cause_of(error)}; the run continues, but `kdtool runs sync` "
                    "cannot send what is missing. Make room or the file writable; later events are then written again"
                )

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, hook: str, values: Mapping[str, Any]) -> bytes:
        run: RunInfo = values["run"]
        line = {
            "event": hook.removeprefix(PREFIX),
            "time": datetime.fromtimestamp(run.time, UTC).isoformat(timespec="milliseconds"),
            **{key: getattr(run, key) for key in _PLACE},
            **{name: value for name, value in values.items() if name != "run"},
        }
        if hook == "kdtool_run_start":
            line |= {**{key: getattr(run, key) for key in _WHOLE}, **self._about}
        text = json.dumps(to_jsonable_python(line, fallback=_plain))
        plain = self._places.hide(json.loads(text, parse_constant=str))  # "NaN" for NaN, which JSON does not have
        return json.dumps(plain, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"  # halves of surrogates

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
            _mend(self._path)
        if (written := self._file.write(line)) < len(line):
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, "the disk is full")


def _plain(value: object) -> object:
    """Return a mapping other than a dict as one, and anything else that JSON does not have as text."""
    return dict(value) if isinstance(value, Mapping) else str(value)


def _mend(path: Path) -> None:
    """Cut off the last line if a killed process left it without its end."""
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


_PLACE: Mapping[str, Any] = {"stage": str, "label": str, "stage_title": str, "phase": str, "arm": str, "seed": int}
_WHOLE: Mapping[str, Any] = {
    "name": str,
    "world": int,
    "offline": bool,
    "licences": tuple[Licensed, ...],
}
"""Fields of `RunInfo`, with their types: those of each event, and those of a run."""


@dataclass(frozen=True)
class Event:
    """An event of a log: a tracker's hook with its arguments. `bytes` is the length of its line, `line` its content.

    If the line is damaged, `hook` is "" and nothing else is there.
    """

    bytes: int
    hook: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    line: Mapping[str, Any] = field(default_factory=dict)


def read_events(run: RunInfo) -> Iterator[Event]:
    """Yield the events in the log of the run in `run.folder`, also if the folder was moved since.

    Fields of `run` that the log does not hold are as given.
    """
    places = Places.of(run.folder)
    for text in json_lines(run.folder / EVENTS):
        try:
            line = json.loads(text)
            hook = PREFIX + line["event"]
            values, fields = _read(line, _arguments(hook)), _read(line, _PLACE)
            if hook == "kdtool_run_start":
                run = replace(run, **_read(line, _WHOLE))
            run = replace(run, **fields, time=datetime.fromisoformat(line["time"]).timestamp())
        except (LookupError, TypeError, ValueError):
            yield Event(len(text))
            continue
        values = _find_paths(values, _arguments(hook), places)
        yield Event(len(text), hook, {"run": run, **values}, line)


def superseded_steps(events: Iterable[Event]) -> set[int]:
    """Return the numbers of the events that are steps which the run made again, after it was resumed from a checkpoint.

    A step supersedes those of the same number and above that its phase has logged before it.
    """
    superseded: set[int] = set()
    steps: defaultdict[tuple[object, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, event in enumerate(events):
        if event.hook == "kdtool_step_end":
            before = steps[tuple(event.line[key] for key in _PLACE)]
            step = event.values["report"].step
            while before and before[-1][0] >= step:
                superseded.add(before.pop()[1])
            before.append((step, number))
    return superseded


@cache
def _arguments(hook: str) -> Mapping[str, Any]:
    """Return the types of a hook's arguments, `run` left out."""
    hints = get_type_hints(vars(Tracker)[hook])
    return {name: hint for name, hint in hints.items() if name not in {"run", "return"}}


def _read(line: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _adapter(hint).validate_python(line[name]) for name, hint in types.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _find_paths(values: Mapping[str, Any], types: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Return the arguments with absolute paths."""
    plain = {name: _adapter(types[name]).dump_python(value) for name, value in values.items()}
    return _read(map_paths(plain, lambda path: places.folder / places.find(path)), types)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)
