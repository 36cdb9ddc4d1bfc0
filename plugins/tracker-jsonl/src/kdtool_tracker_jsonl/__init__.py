"""The tracker `jsonl`: every event as a JSON line in `events.jsonl`.

The engine calls it on rank 0 with everything that happens between `kdtool_run_start` and `kdtool_run_end`; messages
before and after are dropped, because there is no file yet. Lines are written at once and whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import kdtool

__all__ = ["JsonLinesTracker"]


class JsonLinesTracker(kdtool.Tracker):
    """Appends every event of a run to `events.jsonl` in the run folder."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._file: TextIO | None = None

    def kdtool_run_start(self, run: kdtool.RunInfo) -> None:
        self.kdtool_close()
        run.folder.mkdir(parents=True, exist_ok=True)
        path = run.folder / "events.jsonl"
        if path.exists():
            _mend(path)
        self._file = path.open("a", encoding="utf-8", buffering=1, newline="\n")
        self._write(run, "run_start", name=run.name, folder=run.folder, world=run.world)

    def kdtool_plan(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        self._write(run, "plan", stages=stages)

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        self._write(run, "stage_start", total=total, unit=unit)

    def kdtool_progress(self, run: kdtool.RunInfo, done: int) -> None:
        self._write(run, "progress", done=done)

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self._write(run, "step_end", report=report)

    def kdtool_measurement(self, run: kdtool.RunInfo, measurement: kdtool.Measurement) -> None:
        self._write(run, "measurement", measurement=measurement)

    def kdtool_checkpoint(self, run: kdtool.RunInfo, path: Path, step: int) -> None:
        self._write(run, "checkpoint", path=path, step=step)

    def kdtool_message(self, run: kdtool.RunInfo, text: str) -> None:
        self._write(run, "message", text=text)

    def kdtool_stage_end(self, run: kdtool.RunInfo, seconds: float, reused: bool) -> None:
        self._write(run, "stage_end", seconds=seconds, reused=reused)

    def kdtool_run_end(
        self, run: kdtool.RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        self._write(run, "run_end", status=status, report=report)
        self.kdtool_close()

    def kdtool_close(self) -> None:
        """Close the file; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, run: kdtool.RunInfo, event: str, **told: Any) -> None:
        from pydantic_core import to_json

        if self._file is None:
            return
        where = {"stage": run.stage, "label": run.label, "arm": run.arm, "seed": run.seed}
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **where, **told}
        self._file.write(to_json(line, inf_nan_mode="strings", fallback=_plain).decode() + "\n")


def _plain(value: object) -> object:
    """Encode values that JSON does not have: mappings other than dicts, and anything else as text."""
    return dict(value) if isinstance(value, Mapping) else str(value)


def _mend(path: Path) -> None:
    """Cut off what a killed process left of its last line; a whole line that only lacks its end gets it."""
    content = path.read_bytes()
    torn = content[content.rfind(b"\n") + 1 :]
    if not torn:
        return
    with path.open("r+b") as file:
        try:
            json.loads(torn)
        except ValueError:
            file.truncate(len(content) - len(torn))
        else:
            file.seek(0, 2)
            file.write(b"\n")
