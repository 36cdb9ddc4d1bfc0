"""One process a run and one maker an artefact: others are refused or wait, and a killed process holds nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._store.shared import run_lock, worker_of

HOLD = """
import os, sys, time
from pathlib import Path
from kdtool._store.shared import run_lock

with run_lock(Path(sys.argv[1])):
    if sys.argv[2] == "with a worker" and not os.fork():
        time.sleep(float(sys.argv[3]))
        sys.exit()
    print("held", flush=True)
    time.sleep(60)
"""

MAKE = """
import sys, time
from pathlib import Path
import kdtool
from kdtool._store.artefacts import Artefacts

def build(folder):
    part = folder / "part"
    begun = part.exists()
    part.write_text("half")
    kdtool.commit(folder, part)
    print("continues" if begun else "begins", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.05)
    part.write_text("whole")

made = Artefacts(Path(sys.argv[1])).make(
    "kind", "label", "f" * 64, build=build, waiting=lambda text: print("waits", flush=True)
)
print("reused" if made.reused else "made", (made.path / "part").read_text(), flush=True)
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.wait()
        assert started.stdout is not None
        started.stdout.close()


def line_of(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def run(recipe: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    plain = {**recipe, "control": False, "evaluators": False, "seeds": [0]}
    Path("toy.json").write_text(json.dumps(plain), encoding="utf-8")
    command = [sys.executable, "-m", "kdtool", "run", "toy.json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")


def test_a_second_process_is_refused_until_the_first_is_gone(recipe: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "toy"
    with process(HOLD, str(folder), "alone") as holder:
        assert line_of(holder) == "held"
        assert (worker_of(folder) or "").startswith(f"process {holder.pid} on ")
        refused = run(recipe)
        assert refused.returncode == 7
        assert f"{folder} is in use by process {holder.pid} on " in refused.stderr
        holder.kill()
        holder.wait()
    assert (folder / "lock.json").exists()  # what the killed process left
    assert worker_of(folder) is None
    assert run(recipe).returncode == 0


def test_a_run_does_not_wait_for_the_lock_that_it_holds(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("kdtool._store.shared.worker_of", asked.append)
    kdtool.run({**recipe, "control": False, "evaluators": False, "seeds": [0]})
    assert asked == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked on POSIX only")
def test_a_worker_that_outlives_its_killed_process_does_not_hold_the_run(tmp_path: Path) -> None:
    with process(HOLD, str(tmp_path), "with a worker", "60") as holder:
        assert line_of(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run_lock(tmp_path):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked on POSIX only")
def test_a_worker_that_ends_does_not_give_the_run_away(tmp_path: Path) -> None:
    with process(HOLD, str(tmp_path), "with a worker", "0") as holder:
        assert line_of(holder) == "held"
        time.sleep(0.3)
        with pytest.raises(kdtool.LockedError, match=f"process {holder.pid} "), run_lock(tmp_path):
            pass


def test_the_second_maker_waits_and_takes_what_the_first_made(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with process(MAKE, str(tmp_path), str(go_on)) as first:
        assert line_of(first) == "begins"
        with process(MAKE, str(tmp_path), str(go_on)) as second:
            assert line_of(second) == "waits"
            go_on.touch()
            assert line_of(second) == "reused whole"
        assert line_of(first) == "made whole"


def test_the_second_maker_goes_on_where_the_first_was_killed(tmp_path: Path) -> None:
    with process(MAKE, str(tmp_path), str(tmp_path / "never")) as first:
        assert line_of(first) == "begins"
        with process(MAKE, str(tmp_path), str(tmp_path)) as second:
            assert line_of(second) == "waits"
            first.kill()
            assert [line_of(second), line_of(second)] == ["continues", "made whole"]


def test_where_nobody_can_ask_a_run_is_held_by_whom_it_names(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()  # it cannot be opened, as on a disk that may only be read
    assert worker_of(tmp_path) is None
    (tmp_path / "lock.json").write_text('{"pid": 7, "host": "here", "since": "today"}', encoding="utf-8")
    assert worker_of(tmp_path) == "process 7 on here since today"
