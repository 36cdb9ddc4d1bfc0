"""A tracker that hangs, fails, ends its thread or is slow does not hold up a run, and its log loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import kdtool
import pytest
from kdtool._assembly.assemble import assemble
from kdtool._contract.run_info import Owner
from kdtool._plugins import events
from kdtool._plugins.events import Events, TrackerThread
from kdtool._recipe.parser import load_recipe
from kdtool._text.names import TRACKER_THREAD
from kdtool_testing import make_run

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


def hang_ever():  # as a library that starts threads which the interpreter waits for
    threading.Thread(target=time.sleep, args=[1000]).start()
    time.sleep(1000)


def fail_on_a_full_disk():
    raise ValueError("no space")


FAULTS = {
    "hang": lambda: time.sleep(1000),
    "hang-ever": hang_ever,
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
    def kdtool_run_start(self, run):
        fail("kdtool_run_start")

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
PLACES = ("kdtool_run_start", "kdtool_step_end", "kdtool_close")
OFF = "; disabled for the rest of this run"


def expected(place: str, what: str) -> str:
    closing = place == "kdtool_close"
    if what.startswith("hang"):
        return f"{WHO}{'did not close in time' if closing else 'did not finish in time'}{OFF}{REMEDY}"
    if what == "overflow":
        return f"{WHO}has 2 unprocessed events{OFF}{REMEDY}"
    if what == "interrupt":
        return f"{WHO}ended its thread: KeyboardInterrupt{OFF}{REMEDY}"
    cause = {"raise": "ValueError: no space", "exit": "PluginError: tried to end the process by sys.exit(3)"}[what]
    return f"{WHO}could not be closed: {cause}" if closing else f"{WHO}failed in {place}: {cause}{OFF}"


@pytest.fixture
def short(recipe: dict[str, Any]) -> dict[str, Any]:
    Path("faulty.py").write_text(FAULTY, encoding="utf-8")
    return {**recipe, "seeds": [0], "control": False, "trackers": {"faulty": {"use": "./faulty.py:Faulty"}}}


FAULTS = [(place, what) for place in PLACES for what in ("hang", "raise", "exit", "interrupt")]


@pytest.mark.parametrize(
    ("place", "what"), [*FAULTS, ("kdtool_step_end", "overflow"), ("kdtool_step_end", "hang-ever")]
)
def test_a_faulty_tracker_costs_one_line_and_no_event(short: dict[str, Any], place: str, what: str) -> None:
    Path("recipe.json").write_text(json.dumps(short), encoding="utf-8")
    program = [sys.executable, "-m", "kdtool", "run", "recipe.json"]
    environment = {**os.environ, "FAULT": f"{place} {what}"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith(WHO)] == [expected(place, what)]
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


class Put:
    """A tracker's thread with what it did and said."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.done: list[int] = []
        self.go = threading.Event()
        self.thread = TrackerThread(Owner("trackers.x", "tracker", "x", "", ""), self.said.append)
        self.run = make_run(folder, time=1.0)
        self.thread.put("kdtool_run_start", self.start, run=self.run, stages=())

    def start(self, run: Any, stages: Any) -> None:
        self.go.wait(10)

    def put(self, hook: str, number: int) -> None:
        self.thread.put(hook, self.done.append, number)


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    monkeypatch.setattr(events, "LONGEST", 10)
    found = Put(tmp_path / "a run")
    while found.thread._calls.qsize():
        time.sleep(0.001)
    return found


def test_a_full_queue_drops_progress_first(put: Put) -> None:
    for number in range(20):
        put.put("kdtool_progress", number)
    for number in range(20, 25):
        put.put("kdtool_step_end", number)
    put.put("kdtool_progress", 25)
    put.go.set()
    put.thread.finish(time.monotonic() + 10)
    assert put.done == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]
    assert put.said == []


def test_a_tracker_that_is_too_far_behind_is_switched_off_and_closed_all_the_same(put: Put) -> None:
    for number in range(30):
        put.put("kdtool_step_end", number)
    (line,) = put.said
    assert line == f"tracker 'trackers.x' (x) has 10 unprocessed events{OFF}{REMEDY}"
    put.go.set()
    put.thread.finish(time.monotonic() + 10)
    put.thread.close(lambda: put.done.append(-1))
    assert put.done == [-1]
    assert len(put.said) == 1


def test_all_trackers_share_the_time_at_the_end_and_an_interrupted_run_waits_less(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SHORT_PATIENCE", 0.2)
    hanging = [put, *(Put(tmp_path) for _ in range(20))]
    start = time.monotonic()
    Events({str(number): one.thread for number, one in enumerate(hanging)}).finish(interrupted=True)
    for one in hanging:
        one.thread.close(lambda: None)
        assert [line.count("did not finish in time") for line in one.said] == [1]
        one.go.set()
    assert time.monotonic() - start < 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_neither_logs_in_the_thread_nor_waits_for_it(put: Put) -> None:
    if not (worker := os.fork()):
        put.put("kdtool_step_end", 1)
        put.thread.finish(time.monotonic() + 10)
        put.thread.close(lambda: None)
        os._exit(len(put.said))
    assert os.waitpid(worker, 0)[1] == 0
    put.go.set()
    put.thread.finish(time.monotonic() + 10)
    assert put.done == []


def test_events_do_not_keep_what_a_stage_holds(tmp_path: Path) -> None:
    found, run = Events({}), make_run(tmp_path)
    found.begin(run, Mock())
    stage = make_run(tmp_path / "stage", stage="phases", seed=3)
    got = found.record("kdtool_step_end", {"run": stage, "report": 1})["run"]
    assert (got.hook, got.texts, got.folder) == (run.hook, run.texts, run.folder)
    assert (got.stage, got.seed) == ("phases", 3)
    assert abs(got.time - time.time()) < 10
