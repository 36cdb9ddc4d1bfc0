"""The events of a run as JSON Lines, `events.jsonl`, written by every run.

A line is written at once and whole, so that a killed process loses at most the one that it was writing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from kdtool._contract.run_info import RunInfo
from kdtool._errors import cause_of
from kdtool._plugins.hook_specs import PREFIX
from kdtool._results.files import Places
from kdtool._store.files import append_line
from kdtool._store.shared import EVENTS


class EventLog:
    """Appends events to `events.jsonl` in `folder`.

    Events that cannot be written are left out, with one line to `complain`; the run continues. `recipe` goes into the line
    of `run_start`. Places are written as in `Places`.
    """

    def __init__(
        self, folder: Path, recipe: Mapping[str, Any], complain: Callable[[str], None], store: Path | None = None
    ) -> None:
        self._path = folder / EVENTS
        self._places = Places(folder, store)
        self._recipe = recipe
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
                    f"{self._path} lacks events of this run: {cause_of(error)}; the run continues. Make room or the file "
                    "writable; later events are then written again"
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
            line["recipe"] = self._recipe
        text = json.dumps(to_jsonable_python(line, fallback=_plain))
        plain = self._places.hide(json.loads(text, parse_constant=str))  # "NaN" for NaN, which JSON does not have
        return json.dumps(plain, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"  # halves of surrogates

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
            _mend(self._path)
        append_line(self._file, line)


def _plain(value: object) -> object:
    """Return a mapping other than a dict as one, and anything else that JSON does not have as text."""
    return dict(value) if isinstance(value, Mapping) else str(value)


def _mend(path: Path) -> None:
    """Cut off the last line if a killed process left it without its end."""
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


_PLACE = ("stage", "label", "stage_title", "phase", "arm", "seed")
"""Fields of `RunInfo` in each event."""
