"""The tracker `trackio`: a database in the run's folder that trackio's dashboard shows, with a trackio run for each series.

The tracker fills the documented tables of a trackio project (https://huggingface.co/docs/trackio/storage_schema);
trackio adds its other tables when it opens the database. trackio itself is not imported: it chooses its folder once for
a process when it is imported, and starts threads.
"""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

import kdtool
from kdtool import Field
from kdtool_essentials.curves import CurvesTracker, samples_text


class TrackioTracker(CurvesTracker):
    """Writes curves, measurements and samples into a trackio project named as the run, below the run's folder.

    To open it: `pip install trackio`, then `TRACKIO_DIR=runs/NAME/trackio trackio show`.
    """

    class Config(kdtool.Config):
        """The place of the project."""

        folder: kdtool.RecipePath | None = Field(None, json_schema_extra=kdtool.does_not_affect_results())
        """Folder of trackio's databases, such as `~/.cache/huggingface/trackio`, so that one dashboard shows many runs.
        None: `trackio` in the run's folder."""
        project: str | None = Field(None, min_length=1, json_schema_extra=kdtool.does_not_affect_results())
        """Name of the project, so that several runs share one. None: the run's name."""

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._name = ""
        self._database = Database(Path(), "")

    def begin(self, run: kdtool.RunInfo) -> str:
        self._name, folder = run.name, self.config.folder or run.folder / "trackio"
        self._database = Database(folder, self.config.project or run.name)
        return f"TRACKIO_DIR={quote(str(folder))} trackio show"

    def log_step(self, series: str, phase: str, report: kdtool.StepReport, values: Mapping[str, float]) -> None:
        self._database.log(self._run(series), f"phase-{phase}", report.step, values)

    def log_results(
        self, series: str, measurements: Sequence[kdtool.Measurement], settings: Mapping[str, bool | int | float | str]
    ) -> None:
        run = self._run(series)
        self._database.log(run, "measurements", 0, dict(_values(measurements)))
        self._database.configure(run, settings)

    def _run(self, series: str) -> TrackioRun:
        """Return the trackio run of a series. Its id stays the same, and so does its name unless `project` changes."""
        name = f"{self._name}-{series}" if self.config.project else series
        return TrackioRun(f"{self._name}-{series}", name, re.sub(r"-seed\d+$", "", series))


def _values(measurements: Sequence[kdtool.Measurement]) -> Iterator[tuple[str, Any]]:
    """Yield the measurements with their intervals, and their texts as Markdown."""
    for found in measurements:
        yield f"measurements/{found.name}", found.value
        bounds = {"low": found.low, "high": found.high}
        yield from ((f"measurements/{found.name}/{end}", value) for end, value in bounds.items() if value is not None)
        if text := samples_text(found):
            yield f"samples/{found.name}", {"_type": "trackio.markdown", "_value": text}


_TABLES = (
    """CREATE TABLE IF NOT EXISTS metrics (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, timestamp TEXT NOT NULL, run_name TEXT NOT NULL,
        step INTEGER NOT NULL, metrics TEXT NOT NULL, log_id TEXT, space_id TEXT
    )""",
    """CREATE TABLE IF NOT EXISTS configs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, run_name TEXT NOT NULL, config TEXT NOT NULL,
        created_at TEXT NOT NULL, UNIQUE(run_id)
    )""",
    "CREATE UNIQUE INDEX IF NOT EXISTS idx_metrics_log_id ON metrics(log_id) WHERE log_id IS NOT NULL",
)
_SECONDS_TO_WAIT = 30.0
"""For another process that writes, such as a second run that logs into the same project."""


@dataclass(frozen=True)
class TrackioRun:
    """A run of trackio. Runs of the same `name` and another `id` are different runs; `group` is what they are grouped by."""

    id: str
    name: str
    group: str


class Database:
    """One trackio project. Each call is a separate transaction, on disk when it returns."""

    def __init__(self, folder: Path, project: str) -> None:
        safe = "".join(letter for letter in project if letter.isalnum() or letter in "-_")
        self._path = folder / f"{safe or 'default'}.db"

    def log(self, run: TrackioRun, part: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a step of a part of a run, in place of this step and all later ones of the part."""
        mark, end = f"{run.id}/{part}/", f"{run.id}/{part}0"  # 0 is the character after /
        with self._transaction() as connection:
            connection.execute("DELETE FROM metrics WHERE log_id >= ? AND log_id < ? AND step >= ?", (mark, end, step))
            connection.execute(
                "INSERT INTO metrics (run_id, timestamp, run_name, step, metrics, log_id) VALUES (?, ?, ?, ?, ?, ?)",
                (run.id, datetime.now(UTC).isoformat(), run.name, step, _json(values), f"{mark}{step}"),
            )
            if not connection.execute("SELECT 1 FROM configs WHERE run_id = ?", (run.id,)).fetchone():
                _configure(connection, run, {})

    def configure(self, run: TrackioRun, settings: Mapping[str, Any]) -> None:
        """Write the settings of a run that has logged something."""
        with self._transaction() as connection:
            _configure(connection, run, settings)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self._path):  # SQLite would follow a link
            kdtool.open_regular(self._path, limit=None, inside=self._path.parent).close()
        with closing(sqlite3.connect(self._path, timeout=_SECONDS_TO_WAIT)) as connection, connection:
            for statement in _TABLES:
                connection.execute(statement)
            yield connection


def _configure(connection: sqlite3.Connection, run: TrackioRun, settings: Mapping[str, Any]) -> None:
    """Write settings and, with keys that start with `_`, trackio's own."""
    (created,) = connection.execute("SELECT MIN(timestamp) FROM metrics WHERE run_id = ?", (run.id,)).fetchone()
    config = {**settings, "_Group": run.group, "_Created": created, "_Username": None}
    connection.execute(
        "INSERT OR REPLACE INTO configs (run_id, run_name, config, created_at) VALUES (?, ?, ?, ?)",
        (run.id, run.name, _json(config), created),
    )


def _json(values: Mapping[str, Any]) -> str:
    """Return JSON in which infinite numbers and NaN are text, as trackio reads them."""
    return json.dumps({name: _finite(value) for name, value in values.items()}, allow_nan=False)


def _finite(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
