"""Every run writes its events as JSON lines: in order, at once, appended on resume."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kdtool
import pytest
from kdtool._results.files import EventLog
from kdtool_testing import make_run
from toy_recipe import Recipe

REPORT = kdtool.StepReport(3, 10, 6144, 4.2, float("nan"), 1e-3, 0.5, {"ce": kdtool.TermReport(2.5, 1.0, None)})
HOOKS = [name for name in vars(kdtool.Tracker) if name.startswith("kdtool_")]


def write(folder: Path, *events: tuple[str, dict[str, Any]], complain: Any = pytest.fail) -> None:
    log = EventLog(folder, {"name": "x"}, complain)
    for hook, values in events:
        log.write(hook, values)
    log.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "events.jsonl").read_bytes()
    assert text.endswith(b"\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_every_hook_of_a_tracker_is_an_event(tmp_path: Path) -> None:
    run = make_run(tmp_path, stage="phases", arm="control", seed=2, time=1e9)
    measurement = kdtool.Measurement(
        "perplexity", "student", "", 12.0, 64, False, settings=MappingProxyType({"a": "b"})
    )
    planned = (kdtool.StageRecord("text", "f", 1.5, reused=True, path=tmp_path / "text" / "f", title="text"),)
    write(
        tmp_path,
        ("kdtool_run_start", {"run": run, "stages": planned}),
        ("kdtool_stage_start", {"run": run, "total": None, "unit": "steps"}),
        ("kdtool_progress", {"run": run, "done": 5, "total": None}),
        ("kdtool_step_end", {"run": run, "report": REPORT}),
        ("kdtool_measurement", {"run": run, "measurement": measurement}),
        ("kdtool_checkpoint", {"run": run, "path": tmp_path / "c", "step": 3}),
        ("kdtool_message", {"run": run, "text": "zwei\nZeilen ü \u2028 \udc80"}),
        ("kdtool_stage_end", {"run": run, "seconds": 1.5, "reused": True}),
        ("kdtool_run_end", {"run": run, "status": "done", "report": tmp_path / "report.html"}),
    )
    found = lines(tmp_path)
    assert [f"kdtool_{line['event']}" for line in found] == HOOKS
    assert all(line["arm"] == "control" and line["seed"] == 2 for line in found)
    assert all(line["time"] == "2001-09-09T01:46:40.000+00:00" for line in found)
    assert found[0]["recipe"] == {"name": "x"}
    assert found[0]["stages"] == [
        {"name": "text", "fingerprint": "f", "seconds": 1.5, "reused": True, "path": "text/f", "title": "text"}
    ]
    step = found[3]["report"]
    assert step["loss"] == "NaN"
    assert step["terms"] == {"ce": {"value": 2.5, "weight": 1.0, "gradient_norm": None}}
    assert found[4]["measurement"]["settings"] == {"a": "b"}
    assert found[6]["text"] == "zwei\nZeilen ü \u2028 \udc80"


@pytest.mark.parametrize(
    "left",
    [b'{"event": "progr', b'{"event": "message"}', b'{"text": "\xc3', b""],
    ids=["torn", "only the end of line is missing", "torn inside a character", "whole"],
)
def test_a_torn_last_line_does_not_spoil_the_file(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "run_start"}\n' + left)
    write(tmp_path, ("kdtool_run_start", {"run": make_run(tmp_path), "stages": ()}))
    assert len(lines(tmp_path)) == 2


def test_lines_are_there_before_the_file_is_closed(tmp_path: Path) -> None:
    log, run = EventLog(tmp_path, {}, pytest.fail), make_run(tmp_path)
    for hook, values in (("kdtool_run_start", {"stages": ()}), ("kdtool_message", {"text": "last words"})):
        log.write(hook, {"run": run, **values})
    assert [line["event"] for line in lines(tmp_path)] == ["run_start", "message"], "no kill loses them"
    log.close()


def test_every_run_has_a_log_also_one_that_fails_and_one_that_only_measures(recipe: Recipe) -> None:
    short = {**recipe, "seeds": [0], "control": False, "trackers": []}
    folder = kdtool.run(short).folder
    first = lines(folder)
    assert (first[0]["event"], first[-1]["event"], first[-1]["status"]) == ("run_start", "run_end", "done")
    assert first[0]["recipe"]["name"] == "toy"
    assert {"run_start", "stage_start", "stage_end", "step_end", "measurement", "message"} <= {
        each["event"] for each in first
    }
    with pytest.raises(kdtool.KdtoolError):
        kdtool.run({**short, "train": {**short["train"], "steps": 5}, "reporter": {"use": "missing.py:Report"}})
    assert lines(folder) == first
    kdtool.run(short)
    assert [each["event"] for each in lines(folder)].count("run_start") == 2
    Path("recipe.json").write_text(json.dumps(short), encoding="utf-8")
    measured = kdtool.evaluate([], recipe="recipe.json", name="measured").folder
    assert lines(measured)[-1]["event"] == "run_end"
