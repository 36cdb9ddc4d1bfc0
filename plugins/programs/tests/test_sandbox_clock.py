"""Time limits: processor time and idle time count, waiting for a processor does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from kdtool_programs import Language, Module, Program, Sandbox, Step, Task, Verdict
from kdtool_programs.tasks import frames_of

Judge = Callable[..., Verdict]
_WORKS = """\
import time
def f(x):
    began = time.process_time()
    while time.process_time() < began + {seconds}: pass
    return 2
"""
_SLEEPS = "import time\ndef f(x):\n    time.sleep({seconds})\n    return 2\n"
_WORKS_IN_A_CHILD = f"import os\n{_WORKS}".replace("return 2", "os._exit(0)").replace(
    "def f(x):",
    """\
def f(x):
    if child := os.fork():
        os.waitpid(child, 0)
        return 2""",
)
_WORKS_IN_A_SHELL = "i=0; while [ $i -lt 150000 ]; do i=$((i + 1)); done"


def _module(source: str) -> Module:
    return Module(source, "assert f(1) == 2", ("f",))


@pytest.fixture(autouse=True)
def same_limits_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let limits be those that are asked for, and let no task end because the machine of the tests is too busy."""
    monkeypatch.setattr("kdtool_programs.tasks.slowness", lambda: 1.0)
    for module in ("tasks", "worker"):
        monkeypatch.setattr(f"kdtool_programs.{module}.WAITING", 200)


@pytest.fixture
def busy() -> Iterator[None]:
    """Let this process, and what it starts, have one processor, on which others have work."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    burning = [sys.executable, "-S", "-c", "while True: pass"]
    others = [subprocess.Popen(burning, start_new_session=True) for _ in range(4)]
    yield
    for process in others:
        process.kill()
        process.wait()
    os.sched_setaffinity(0, everywhere)


def test_waiting_for_a_processor_is_not_charged(needs_bubblewrap: None, shell: Language, busy: None) -> None:
    program = Program({}, (Step(("/bin/sh", "-c", _WORKS_IN_A_SHELL), "tests"),))
    forking = replace(_module(_WORKS_IN_A_CHILD.format(seconds=0.6)), forks=True)
    tasks = [Task("module", _module(_WORKS.format(seconds=0.6)), 1.0), Task("program", program, 1.0)]
    tasks.append(Task("forking", forking, 1.0))
    with Sandbox(languages=[shell]) as sandbox:
        verdicts = list(sandbox.run(tasks))
    assert [verdict.status for verdict in verdicts] == ["passed"] * 3, verdicts
    assert [verdict for verdict in verdicts if verdict.wall_seconds > 1.0], "nothing waited, so nothing was tested"


def test_sleeping_is_charged_on_a_busy_machine(needs_bubblewrap: None, busy: None) -> None:
    with Sandbox() as sandbox:
        (verdict,) = sandbox.run([Task("sleeps", _module(_SLEEPS.format(seconds=99)), 0.5)])
    assert verdict.status == "timed out"
    assert verdict.reason.removesuffix(" of processor time") == "no verdict within 0.5 s"


def test_all_processes_of_a_program_are_charged(run_steps: Judge) -> None:
    verdict = run_steps("for number in 1 2 3 4; do (while :; do :; done) & done; wait", seconds=1.0)
    assert (verdict.status, verdict.reason) == ("timed out", "tests: more than 1 s of processor time")


def test_a_task_that_waited_too_long_is_tried_once_more_alone(
    needs_bubblewrap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, int]] = []
    with Sandbox(workers=2) as sandbox:

        def counting(task: Task) -> object:
            monkeypatch.setattr(
                "kdtool_programs.tasks.WAITING", 10 if any(name == task.id for name, _ in started) else 0.1
            )
            started.append((task.id, len(sandbox._running)))
            return frames_of(task)

        monkeypatch.setattr("kdtool_programs.sandbox.frames_of", counting)
        late, never = (Task(str(seconds), _module(_SLEEPS.format(seconds=seconds)), 4.0) for seconds in (1, 99))
        verdicts = {verdict.id: (verdict.status, verdict.reason) for verdict in sandbox.run([late, never])}
    assert verdicts == {"1": ("passed", ""), "99": ("timed out", "no verdict within 4 s")}
    assert sorted(started[2:]) == [("1", 0), ("99", 0)]
