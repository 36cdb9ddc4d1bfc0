"""Every run writes its events as JSON lines: in order, at once, appended on resume; and `kdtool runs sync` replays them."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kdtool
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdtool._cli.command_line import call
from kdtool._errors import LockedError
from kdtool._plugins.hook_specs import SPECS
from kdtool._run.event_log import EventLog, read_events, superseded_steps
from kdtool._run.sync import sync_run
from kdtool._store.locks import run_lock
from kdtool_testing import make_run

REPORT = kdtool.StepReport(3, 10, 6144, 4.2, float("nan"), 1e-3, 0.5, {"ce": kdtool.TermReport(2.5, 1.0, None)})
HOOKS = [name for name in vars(kdtool.Tracker) if name.startswith("kdtool_")]
RECORDS = '''
import json
from pathlib import Path

import kdtool
from pydantic_core import to_jsonable_python


class Records(kdtool.Tracker):
    """Writes down the events that it gets."""

    class Config(kdtool.Config):
        """The file."""

        file: str = "records"
        """Its name."""

    config: Config

    def _add(self, hook, run, **values):
        place = [run.name, run.stage, run.label, run.phase, run.arm, run.seed, run.world, run.time, str(run.folder)]
        line = json.dumps([hook, place, to_jsonable_python(values, inf_nan_mode="strings")])
        with Path(self.config.file).open("a", encoding="utf-8") as file:
            file.write(line + "\\n")

    def kdtool_close(self):
        with Path(self.config.file + ".closed").open("a") as file:
            file.write("closed\\n")
''' + "".join(
    f"\n    def {name}(self, {', '.join(SPECS[name].arguments)}):\n"
    f"        self._add({name!r}, {', '.join(f'{one}={one}' for one in SPECS[name].arguments)})\n"
    for name in HOOKS
)


def write(folder: Path, *events: tuple[str, dict[str, Any]], complain: Any = pytest.fail) -> None:
    log = EventLog(folder, {"recipe": {"name": "x"}}, complain)
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
        ("kdtool_progress", {"run": run, "done": 5}),
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
    read = list(read_events(make_run(tmp_path)))
    assert [event.hook for event in read] == HOOKS
    assert read[0].values["stages"] == planned
    assert math.isnan(read[3].values["report"].loss)
    assert read[4].values["measurement"] == measurement
    assert read[6].values["text"] == "zwei\nZeilen ü \u2028 \udc80"
    assert sum(event.bytes for event in read) == (tmp_path / "events.jsonl").stat().st_size


@pytest.mark.parametrize(
    "left",
    [b'{"event": "progr', b'{"event": "message"}', b'{"text": "\xc3', b""],
    ids=["torn", "only the end of line is missing", "torn inside a character", "whole"],
)
def test_a_torn_last_line_does_not_spoil_the_file(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(b'{"event": "run_start"}\n' + left)
    write(tmp_path, ("kdtool_run_start", {"run": make_run(tmp_path), "stages": ()}))
    assert len(lines(tmp_path)) == 2


def test_lines_are_there_when_the_process_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from kdtool_testing import make_run\n"
        "from kdtool._run.event_log import EventLog\n"
        "log, run = EventLog(Path(sys.argv[1]), {}, print), make_run(Path(sys.argv[1]))\n"
        "log.write('kdtool_run_start', {'run': run, 'stages': ()})\n"
        "log.write('kdtool_message', {'run': run, 'text': 'last words'})\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    assert [line["event"] for line in lines(tmp_path)] == ["run_start", "message"]


class _Full:
    """A disk that takes a part of a line and then nothing, until there is room again."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 10

    def write(self, content: bytes) -> int:
        taken = content[: self.room]
        self.room -= len(taken)
        if not taken:
            raise OSError(28, "No space left on device")
        return int(self.file.write(taken))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def test_a_full_disk_is_told_once_and_later_events_are_written_again(tmp_path: Path) -> None:
    said: list[str] = []
    log, run = EventLog(tmp_path, {}, said.append), make_run(tmp_path)
    log.write("kdtool_message", {"run": run, "text": "before"})
    disk = log._file = _Full(log._file)  # type: ignore[assignment]
    for text in ("lost", "lost too"):
        log.write("kdtool_message", {"run": run, "text": text})
    disk.room = 10**6
    log.write("kdtool_message", {"run": run, "text": "after"})
    log.close()
    assert [line["text"] for line in lines(tmp_path)] == ["before", "after"]
    (line,) = said
    assert "events.jsonl lacks events of this run: OSError" in line
    assert "kdtool runs sync" in line


def test_a_run_whose_log_cannot_be_written_says_so_once_and_goes_on(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "toy" / "events.jsonl").mkdir(parents=True)
    assert kdtool.run({**recipe, "seeds": [0], "control": False}).verdict
    assert capsys.readouterr().err.count("lacks events of this run") == 1


def test_every_run_has_a_log_also_one_that_fails_and_one_that_only_measures(recipe: dict[str, Any]) -> None:
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
    measured = kdtool.evaluate([], recipe=_file(short), name="measured").folder
    assert lines(measured)[-1]["event"] == "run_end"


def _file(recipe: dict[str, Any]) -> Path:
    path = Path("recipe.json")
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


NUMBERS, TEXTS = st.floats(), st.text()
TERMS = st.builds(kdtool.TermReport, NUMBERS, NUMBERS, st.none() | NUMBERS)
PATHS = st.text("abc ü", min_size=1).map(lambda text: Path("/run") / text)
COUNTS = st.integers(0, 2**70)
ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "kdtool_run_start": {
        "stages": st.lists(st.builds(kdtool.StageRecord, TEXTS, TEXTS, NUMBERS, st.booleans(), PATHS)).map(tuple)
    },
    "kdtool_stage_start": {"total": st.none() | COUNTS, "unit": TEXTS},
    "kdtool_progress": {"done": COUNTS},
    "kdtool_step_end": {
        "report": st.builds(
            kdtool.StepReport, COUNTS, COUNTS, COUNTS, NUMBERS, NUMBERS, NUMBERS, NUMBERS,
            st.dictionaries(TEXTS, TERMS), st.dictionaries(TEXTS, NUMBERS),
        )
    },
    "kdtool_measurement": {
        "measurement": st.builds(
            kdtool.Measurement, TEXTS, TEXTS, TEXTS, NUMBERS, COUNTS, st.booleans(), st.none() | NUMBERS,
            st.none() | NUMBERS, st.dictionaries(TEXTS, TEXTS), st.none() | PATHS,
            st.sampled_from(["identity", "exp"]), st.dictionaries(TEXTS, TEXTS),
        )
    },
    "kdtool_checkpoint": {"path": PATHS, "step": COUNTS},
    "kdtool_message": {"text": TEXTS},
    "kdtool_stage_end": {"seconds": NUMBERS, "reused": st.booleans()},
    "kdtool_run_end": {"status": st.sampled_from(["done", "failed", "interrupted"]), "report": st.none() | PATHS},
}  # fmt: skip
PLACES = st.fixed_dictionaries(
    {
        **dict.fromkeys(("stage", "label", "phase", "arm"), TEXTS),
        "seed": st.integers(0, 2**63),
        "time": st.integers(0, 4 * 10**12).map(lambda milliseconds: milliseconds / 1000),
    }
)
EVENTS = st.sampled_from(HOOKS).flatmap(
    lambda hook: st.tuples(st.just(hook), PLACES, st.fixed_dictionaries(ARGUMENTS[hook]))
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVENTS, max_size=6))
def test_what_is_read_is_what_was_written(
    tmp_path: Path, told: list[tuple[str, dict[str, Any], dict[str, Any]]]
) -> None:
    run = make_run(tmp_path)
    (tmp_path / "events.jsonl").write_bytes(b"")
    events = [(hook, {"run": replace(run, **place), **dict(sorted(values.items()))}) for hook, place, values in told]
    write(tmp_path, *events)
    read = [
        (event.hook, {"run": event.values["run"], **dict(sorted(event.values.items()))}) for event in read_events(run)
    ]
    assert repr(read) == repr(events)  # in which NaN equals NaN


def step(number: int, arm: str = "student") -> tuple[str, dict[str, Any]]:
    run = make_run(Path(), stage="phases", arm=arm, phase="train")
    return "kdtool_step_end", {"run": run, "report": replace(REPORT, step=number)}


def test_steps_that_a_resumed_phase_made_again_are_superseded(tmp_path: Path) -> None:
    numbers = [1, 2, 3, 4, 5, 4, 5, 6, 6, 7, 2, 4]
    write(tmp_path, *(step(number) for number in numbers), *(step(number, "control") for number in (1, 2)))
    left_out = superseded_steps(read_events(make_run(tmp_path)))
    kept = [number for index, number in enumerate(numbers) if index not in left_out]
    assert kept == [1, 2, 4]
    assert max(left_out) < len(numbers)


@pytest.fixture
def done(recipe: dict[str, Any], tmp_path: Path) -> Path:
    """A finished run of which a live tracker wrote the events down in `live`."""
    (tmp_path / "records.py").write_text(RECORDS, encoding="utf-8")
    trackers = {"records": {"use": "records.py:Records", "file": "live"}}
    return kdtool.run({**recipe, "seeds": [0], "control": False, "trackers": trackers}).folder


def records(name: str) -> list[str]:
    return Path(name).read_text(encoding="utf-8").splitlines()


def test_sync_gives_a_tracker_what_it_would_have_got_in_the_run(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["runs", "sync", "toy", "--to", "./records.py:Records"]) == 0
    assert records("records") == records("live")
    assert records("records.closed") == ["closed"]
    assert capsys.readouterr().out == f"sent {len(records('live'))} events of {done} to ./records.py:Records\n"
    assert len(records("live")) == len(lines(done))


def test_sync_takes_the_settings_of_the_recipe_and_those_of_the_command(done: Path) -> None:
    before = records("live")
    assert call(["runs", "sync", str(done), "--to", "records"]) == 0
    assert records("live") == before * 2
    assert call(["runs", "sync", str(done), "--to", "records", "--set", "file=other"]) == 0
    assert records("other") == before


def test_sync_of_a_run_that_was_moved_gives_paths_where_it_is(done: Path, tmp_path: Path) -> None:
    shutil.move(done, tmp_path / "elsewhere")
    assert call(["runs", "sync", "elsewhere", "--to", "./records.py:Records"]) == 0
    assert records("records") == [line.replace(str(done), str(tmp_path / "elsewhere")) for line in records("live")]


def test_sync_skips_and_counts_damaged_lines(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = done / "events.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    damaged = [b"{\n", b"\xff\n", b"[]\n", b'{"event": "nothing"}\n', b'{"event": "identity"}\n', b"1\n", b"\n"]
    path.write_bytes(b"".join([first, *damaged, rest[0].replace(b'"seed": ', b'"seed": "x'), *rest]))
    assert call(["runs", "sync", "toy", "--to", "./records.py:Records"]) == 0
    assert records("records") == records("live")
    assert "skipped 8 damaged lines of events.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tou", "--to", "x"], "'tou' is not a run: neither a folder of a run nor a name in runs; did you mean 'toy'?"),
        (["toy", "--to", "no-such-tracker"], "no tracker is called 'no-such-tracker'"),
        (["toy", "--to", "./records.py:Records", "--set", "fil=1"], "did you mean 'file'?"),
        (
            ["toy", "--to", "./records.py:Raises"],
            "tracker 'trackers.tracker' (./records.py:Raises) failed: ValueError: no",
        ),
    ],
)
def test_sync_explains_what_is_wrong(
    done: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raises = '\n\nclass Raises(kdtool.Tracker):\n    "Fails."\n\n    def kdtool_run_start(self, run, stages):\n'
    with Path("records.py").open("a", encoding="utf-8") as file:
        file.write(raises + '        raise ValueError("no")\n')
    assert call(["runs", "sync", *arguments]) != 0
    assert message in capsys.readouterr().err


def test_sync_needs_a_log_and_a_run_that_nobody_works_on(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with run_lock(done), pytest.raises(LockedError):
        sync_run(done, "records", {}, print)
    (done / "events.jsonl").unlink()
    assert call(["runs", "sync", "toy", "--to", "records"]) == 2
    assert "has no events.jsonl" in capsys.readouterr().err
