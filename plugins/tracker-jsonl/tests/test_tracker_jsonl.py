"""Events survive as JSON lines: in order, at once, appended on resume, whatever a killed process left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kdtool
import pytest
from kdtool_testing import TrackerConformance, make_run
from kdtool_tracker_jsonl import JsonLinesTracker

REPORT = kdtool.StepReport(3, 10, 6144, 4.2, float("nan"), 1e-3, 0.5, {"ce": kdtool.TermReport(2.5, 1.0, None)})


class TestJsonLinesTracker(TrackerConformance):
    component = JsonLinesTracker
    entry_point = "jsonl"


def tracker() -> JsonLinesTracker:
    return JsonLinesTracker(JsonLinesTracker.Config())


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "events.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_every_hook_of_a_tracker_writes_a_line(tmp_path: Path) -> None:
    told = tracker()
    run = make_run(tmp_path, stage="phases", arm="control", seed=2)
    measurement = kdtool.Measurement(
        "perplexity", "student", "", 12.0, 64, False, settings=MappingProxyType({"a": "b"})
    )
    told.kdtool_run_start(run)
    told.kdtool_plan(run, [kdtool.StageRecord("text", "f", 1.5, reused=True, path=tmp_path)])
    told.kdtool_stage_start(run, None, "steps")
    told.kdtool_progress(run, 5)
    told.kdtool_step_end(run, REPORT)
    told.kdtool_measurement(run, measurement)
    told.kdtool_checkpoint(run, tmp_path / "c", 3)
    told.kdtool_message(run, "zwei\nZeilen ü")
    told.kdtool_stage_end(run, 1.5, True)
    told.kdtool_run_end(run, "done", tmp_path / "report.html")
    found = lines(tmp_path)
    assert {f"kdtool_{line['event']}" for line in found} == {
        name for name in vars(kdtool.Tracker) if name.startswith("kdtool_")
    }
    assert all(line["arm"] == "control" and line["seed"] == 2 and line["time"].endswith("+00:00") for line in found)
    assert found[1]["stages"] == [
        {"name": "text", "fingerprint": "f", "seconds": 1.5, "reused": True, "path": str(tmp_path)}
    ]
    step = found[4]["report"]
    assert step["loss"] == "NaN"
    assert step["terms"] == {"ce": {"value": 2.5, "weight": 1.0, "gradient_norm": None}}
    assert found[5]["measurement"]["settings"] == {"a": "b"}
    assert found[7]["text"] == "zwei\nZeilen ü"


@pytest.mark.parametrize(
    ("left", "kept"),
    [(b'{"event": "progr', 1), (b'{"event": "message"}', 2), (b'{"text": "\xc3', 1), (b"", 1)],
    ids=["torn", "only the end of line is missing", "torn inside a character", "whole"],
)
def test_a_torn_last_line_does_not_spoil_the_file(tmp_path: Path, left: bytes, kept: int) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "run_start"}\n' + left)
    told = tracker()
    told.kdtool_run_start(make_run(tmp_path))
    told.kdtool_close()
    assert len(lines(tmp_path)) == kept + 1


def test_lines_are_there_when_the_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from kdtool_testing import make_run\n"
        "from kdtool_tracker_jsonl import JsonLinesTracker\n"
        "tracker, run = JsonLinesTracker(JsonLinesTracker.Config()), make_run(Path(sys.argv[1]))\n"
        "tracker.kdtool_run_start(run)\n"
        "tracker.kdtool_message(run, 'last words')\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    assert [line["event"] for line in lines(tmp_path)] == ["run_start", "message"]
