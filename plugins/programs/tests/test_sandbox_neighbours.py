"""Neighbours: a hostile task uses up what the kernel counts by user, and the verdicts of others stay as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from kdtool_programs import Module, Sandbox, Task
from kdtool_programs.tasks import frames_of

_PIPES = """\
import os, time
def f(x):
    for _ in range(60):
        try:
            if os.fork() == 0: hold()
        except OSError: break
    time.sleep(99)
def hold():
    held = []
    try:
        while True: held.append(os.pipe())
    except OSError: time.sleep(99)
"""
_USING_A_PIPE = """\
import os, time
def f(x):
    time.sleep(1)
    _, end = os.pipe()
    os.set_blocking(end, False)
    return os.write(end, bytes(60_000)) == 60_000
"""
_JUDGING = """\
import json, sys
from kdtool_programs import Module, Sandbox, Task
hostile, honest = json.load(sys.stdin)
tasks = [Task("hostile", Module(hostile, "f(1)", ("f",)), 3.0)]
tasks += [Task(str(number), Module(honest, "assert f(1)", ("f",)), 30.0) for number in range(3)]
with Sandbox(workers=2) as sandbox:
    print(json.dumps({verdict.id: (verdict.status, verdict.reason) for verdict in sandbox.run(tasks)}))
"""


def test_pipes_of_one_task_are_no_concern_of_others(needs_bubblewrap: None) -> None:
    _check([sys.executable])


@pytest.mark.slow
def test_pipes_of_one_task_are_no_concern_of_others_where_nobody_is_root(needs_bubblewrap: None) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other test is for an ordinary user already")
    _check(["unshare", "--user", "--map-user", "1000", "--map-group", "1000", sys.executable])


def _check(python: list[str]) -> None:
    said = subprocess.run(
        [*python, "-P", "-c", _JUDGING],
        input=json.dumps([_PIPES, _USING_A_PIPE]),
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
        cwd="/",
    )
    assert said.returncode == 0, said.stderr
    verdicts = json.loads(said.stdout)
    assert verdicts.pop("hostile")[0] == "timed out"
    assert verdicts == {str(number): ["passed", ""] for number in range(3)}


def test_a_task_whose_pipes_were_short_is_tried_once_more_alone(
    needs_bubblewrap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int]] = []
    with Sandbox(workers=2) as sandbox:
        monkeypatch.setattr("kdtool_programs.sandbox.pipes_are_short", lambda: True)

        def counting(task: Task) -> object:
            started.append((task.id, len(sandbox._running)))
            return frames_of(task)

        monkeypatch.setattr("kdtool_programs.sandbox.frames_of", counting)
        sources = {"wrong": "def f(x): return 1", "right": "def f(x): return 2"}
        tasks = [Task(key, Module(source, "assert f(1) == 2", ("f",)), 30.0) for key, source in sources.items()]
        verdicts = {verdict.id: verdict.status for verdict in sandbox.run(tasks)}
    assert verdicts == {"wrong": "failed", "right": "passed"}
    assert [name for name, _ in started] == ["wrong", "right", "wrong"]
    assert started[-1] == ("wrong", 0)
