"""A tracker that hangs, fails, ends its thread or is slow does not hold up a run, and its log loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.assemble import assemble
from kdtool._plugins import events
from kdtool._recipe.parser import load_recipe
from kdtool._text.names import TRACKER_THREAD

FAULTY = """
import os
import sys
import threading
import time
from pathlib import Path

import kdtool
from kdtool._plugins import events

if "FAULT" in os.environ:
    events.PATIENCE = events.SHORT_PATIENCE = 0.5
    if "overflow" in os.environ["FAULT"]:
        events.LONGEST = 2


def interrupt():
    raise KeyboardInterrupt


def fail_on_a_full_disk():
    raise ValueError("no space")


FAULTS = {
    "hang": lambda: time.sleep(1000),
    "raise": fail_on_a_full_disk,
    "exit": lambda: sys.exit(3),
    "interrupt": interrupt,
    "overflow": lambda: time.sleep(0.3),
    "note": lambda: None,
}


def fail(place):
    where, what = os.environ.get("FAULT", " ").split(" ")
    if place == where:
        with open("threads", "a") as file:
            print(threading.current_thread() is threading.main_thread(), file=file)
        FAULTS[what]()


class Faulty(kdtool.Tracker):
    def kdtool_step_end(self, run, report):
        fail("kdtool_step_end")

    def kdtool_close(self):
        fail("kdtool_close")
        Path("closed").touch()


class Caller(Faulty):
    synchronous = True


class Shows(Faulty):
    shows_messages = True
"""
REMEDY = "; events.jsonl has its events"
WHO = "tracker 'trackers.faulty' (./faulty.py:Faulty) "
OFF = "; disabled for the rest of this run"


def expected(place: str, what: str) -> str:
    closing = place == "kdtool_close"
    if what == "hang":
        return f"{WHO}{'did not close in time' if closing else 'did not finish in time'}{OFF}{REMEDY}"
    if what == "overflow":
        return f"{WHO}has 2 unprocessed events{OFF}{REMEDY}"
    if what == "interrupt":
        return f"{WHO}ended its thread: KeyboardInterrupt{OFF}{REMEDY}"
    cause = {"raise": "ValueError: no space", "exit": "PluginError: tried to end the process (exit code 3)"}[what]
    return f"{WHO}could not be closed: {cause}" if closing else f"{WHO}failed in {place}: {cause}{OFF}"


@pytest.fixture
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    Path("faulty.py").write_text(FAULTY, encoding="utf-8")
    return {**recipe, "seeds": [0], "control": False, "trackers": {"faulty": {"use": "./faulty.py:Faulty"}}}


@pytest.mark.parametrize(
    ("place", "what"),
    [
        *(("kdtool_step_end", what) for what in ("hang", "raise", "interrupt", "overflow")),
        *(("kdtool_close", what) for what in ("hang", "exit")),
    ],
)
def test_a_faulty_tracker_costs_one_line_and_no_event(short: dict[str, Any], place: str, what: str) -> None:
    Path("recipe.json").write_text(json.dumps(short), encoding="utf-8")
    program = [sys.executable, "-m", "kdtool", "run", "recipe.json"]
    environment = {**os.environ, "FAULT": f"{place} {what}"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith(WHO)] == [expected(place, what)]
    assert ("waiting for trackers.faulty …" in done.stderr) == ((place, what) == ("kdtool_step_end", "hang"))
    assert set(Path("threads").read_text(encoding="utf-8").split()) == {"False"}
    log = [json.loads(line) for line in Path("runs/toy/events.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line["report"]["step"] for line in log if line["event"] == "step_end"]
    assert (log[0]["event"], log[-1]["event"], steps) == ("run_start", "run_end", [1, 2, 3, 4])


@pytest.mark.parametrize("change", [{"required": True}, {"use": "./faulty.py:Caller"}, {"use": "./faulty.py:Shows"}])
def test_trackers_that_must_are_called_where_the_event_happens(
    short: dict[str, Any], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT", "kdtool_step_end note")
    monkeypatch.setattr(events, "PATIENCE", events.PATIENCE)  # changed by the tracker's file
    monkeypatch.setattr(events, "SHORT_PATIENCE", events.SHORT_PATIENCE)
    kdtool.run({**short, "trackers": {"faulty": {**short["trackers"]["faulty"], **change}}})
    assert set(Path("threads").read_text(encoding="utf-8").split()) == {"True"}


def test_no_thread_is_left_after_a_run_and_reopened_components_have_their_own(short: dict[str, Any]) -> None:
    kdtool.run(short)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(TRACKER_THREAD)]
    assert Path("closed").exists()
    with assemble(load_recipe(short), print) as first, first.reopen() as other:
        assert other.events.threads.keys() == first.events.threads.keys()
        assert set(other.events.threads.values()).isdisjoint(first.events.threads.values())
