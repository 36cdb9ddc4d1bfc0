"""Neighbours: a hostile task uses up what the kernel counts by user, and the verdicts of others stay as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

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
    said = subprocess.run(
        [sys.executable, "-P", "-c", _JUDGING],
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
