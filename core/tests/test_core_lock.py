"""One process a run and one maker an artefact: others are refused or wait, and a killed process holds nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.graph import Graph, Node
from kdtool._run.ranks import agree, rank_and_world, wait_for
from kdtool._store.artefacts import Artefacts
from kdtool._store.files import write_sealed
from kdtool._store.shared import GRAPH, holder_of, is_led, run_lock, worker_of

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


FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked on POSIX only")


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


@FORKS
def test_a_worker_that_outlives_its_killed_process_does_not_hold_the_run(tmp_path: Path) -> None:
    with process(HOLD, str(tmp_path), "with a worker", "60") as holder:
        assert line_of(holder) == "held"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run_lock(tmp_path):
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


def test_torchrun_tells_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert rank_and_world() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert rank_and_world() == (0, 4)
    monkeypatch.setenv("RANK", "3")
    assert rank_and_world() == (3, 4)
    for bad in ("4", "-1", "first"):
        monkeypatch.setenv("RANK", bad)
        with pytest.raises(kdtool.UsageError, match="WORLD_SIZE=4 are invalid: expected"):
            rank_and_world()


def test_another_rank_joins_once_and_waits_until_all_is_there(tmp_path: Path) -> None:
    begun, joined = threading.Event(), threading.Event()

    def build(folder: Path) -> None:
        (folder / "begun").touch()
        begun.set()
        assert joined.wait(20)
        time.sleep(0.3)
        (folder / "whole").touch()

    def join(folder: Path) -> bool:
        if not (folder / "begun").exists() or not begun.is_set():
            return False
        assert not joined.is_set(), "it took part already"
        joined.set()
        return True

    node = Node("phases", "x", "training of x", Artefacts(tmp_path), {}, {}, lambda run, folder: None)
    first = threading.Thread(target=lambda: node.where.make(*node.key, build=build, waiting=print))
    first.start()
    found = wait_for(node, join, lambda: True)
    first.join()
    assert joined.is_set()
    assert (found.path / "whole").exists()
    assert wait_for(node, join, lambda: False) == found, "what is there needs nobody"


def test_a_rank_that_waits_ends_when_rank_0_is_gone(tmp_path: Path) -> None:
    node = Node("phases", "x", "training of x", Artefacts(tmp_path), {}, {}, lambda run, folder: None)
    with pytest.raises(kdtool.UsageError, match="process 0 of this run ended before the stage 'training of x'"):
        wait_for(node, lambda _: False, lambda: False)


def graph_of(root: Path, factor: int, name: str = "x") -> Graph:
    graph = Graph()
    text = Node("text", "", "text", Artefacts(root), {}, {}, lambda run, folder: None)
    graph.add(text)
    parts = {"factor": factor}
    graph.add(Node("phases", name, "training", Artefacts(root), parts, {"text": text}, lambda run, folder: None))
    return graph


def in_turn(folder: Path, graphs: dict[int, Graph]) -> dict[int, object]:
    """Have processes agree with rank 0, as threads; return what each gets or raises."""
    found: dict[int, object] = {}

    def take_part(rank: int) -> None:
        try:
            found[rank] = agree(folder, graphs[rank], rank)
        except kdtool.UsageError as error:
            found[rank] = error

    others = [threading.Thread(target=take_part, args=[rank]) for rank in graphs if rank]
    for thread in others:
        thread.start()
    time.sleep(0.3)
    with run_lock(folder):
        write_sealed(folder / GRAPH, {**graphs[0].record("x", folder), "by": (holder_of(folder) or {})["id"]})
        for thread in others:
            thread.join(20)
    return found


def test_processes_with_the_same_graph_agree_whatever_an_earlier_run_left(tmp_path: Path) -> None:
    write_sealed(tmp_path / GRAPH, {**graph_of(tmp_path, 7).record("x", tmp_path), "by": "gone"})
    found = in_turn(tmp_path, {rank: graph_of(tmp_path, 1) for rank in range(3)})
    assert found.keys() == {1, 2}
    assert found[1] == found[2]
    assert isinstance(found[1], dict)
    assert not is_led(tmp_path, found[1]), "the lock is free by now"


@pytest.mark.parametrize(
    ("other", "what"),
    [((2, "x"), r"phases/x differs \(factor 1 → 2\)"), ((1, "y"), r"phases/y differs \(process 0 does not have it\)")],
)
def test_a_process_with_another_graph_ends_with_what_differs(tmp_path: Path, other: tuple[int, str], what: str) -> None:
    found = in_turn(tmp_path, {0: graph_of(tmp_path, 1), 1: graph_of(tmp_path, 1), 2: graph_of(tmp_path, *other)})
    assert isinstance(found[1], dict)
    assert isinstance(found[2], kdtool.UsageError)
    assert re.search(f"processes 0 and 2 of this run would not make the same: {what}. Give all", str(found[2]))
