"""Workers: how they die, what they leave behind, and what is said where there can be none."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kdtool
import pytest
from kdtool_programs import Language, Module, Program, Sandbox, SandboxError, Step, Task
from kdtool_programs.commands import container, container_ending
from kdtool_programs.sandbox import Engine
from kdtool_programs.seccomp import seccomp_filter
from kdtool_programs.view import base_executable
from kdtool_programs.worker import Worker

Fake = Callable[..., None]
Descendants = Callable[..., set[int]]
GOOD = Module("def f(x):\n    return x + 1\n", "assert f(1) == 2", ("f",))
SLOW = Module("import time\ndef f(x):\n    time.sleep(0.3)\n    return x + 1\n", "assert f(1) == 2", ("f",))


_WRITING = """\
import os
for folder, _, _ in os.walk("/"):
    if not folder.startswith(("/tmp", "/proc")) and os.access(folder, os.W_OK):
        raise OSError(f"{folder} can be written")
"""
_LEAVING = "import os, time\nos.mkdir('d')\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    time.sleep(99)\n"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody else's temporary files be counted."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def _scores(processes: set[int]) -> set[str]:
    """Return the scores by which the kernel chooses the process that it ends first."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended
            found.add(Path(f"/proc/{process}/oom_score_adj").read_text())
    return found


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _left() -> list[str]:
    return sorted(str(path) for path in Path(tempfile.gettempdir()).glob("kdtool-sandbox-*"))


def test_where_memory_is_used_up_the_sandbox_goes_first(needs_bubblewrap: None, descendants: Descendants) -> None:
    before = descendants()  # of other tests in this process
    with Sandbox() as sandbox:
        assert next(sandbox.run([Task("a", GOOD)])).has_passed
        deadline = time.monotonic() + 30  # a worker that replaces another may only just have been started
        while (scores := _scores(descendants() - before)) != {"1000\n"} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert scores == {"1000\n"}


def test_many_tasks_leave_no_process_file_or_descriptor(needs_bubblewrap: None, descendants: Descendants) -> None:
    before = descendants(), _descriptors(), _left()
    leaving = Module(f"{_LEAVING}{GOOD.source}", GOOD.tests, ("f",))
    with Sandbox(workers=2) as sandbox:
        tasks = (Task(str(number), leaving if number % 40 == 0 else GOOD, 60.0) for number in range(120))
        assert all(verdict.has_passed for verdict in sandbox.run(tasks))
    assert (descendants(), _descriptors(), _left()) == before


def test_task_is_begun_again_when_its_worker_is_killed(needs_bubblewrap: None) -> None:
    with Sandbox() as sandbox:
        verdicts = sandbox.run([Task("a", GOOD), Task("b", SLOW, 60.0), Task("c", GOOD)])
        assert next(verdicts).has_passed
        os.kill(sandbox._workers[0]._process.pid, signal.SIGKILL)
        rest = list(verdicts)
    assert [(verdict.id, verdict.has_passed) for verdict in rest] == [("b", True), ("c", True)]


def test_no_task_is_lost_behind_one_that_is_too_large(needs_bubblewrap: None) -> None:
    large = Module("", "#" * (64 * 2**20 + 1))
    with Sandbox() as sandbox:
        verdicts = list(sandbox.run([Task("a", large), Task("b", large), Task("c", GOOD, 60.0)]))
    assert [(verdict.id, verdict.status) for verdict in verdicts] == [
        ("a", "refused"),
        ("b", "refused"),
        ("c", "passed"),
    ]


def test_task_whose_workers_all_end_has_failed(needs_bubblewrap: None) -> None:
    with Sandbox() as sandbox:
        verdicts = sandbox.run(_killing(sandbox))
        assert [(verdict.id, verdict.status) for verdict in verdicts] == [("doomed", "failed"), ("next", "passed")]


def _killing(sandbox: Sandbox) -> Iterator[Task]:
    """Kill the worker of the first task twice while it runs."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < 2:
            for worker in list(sandbox._running):
                if (process := worker._process.pid) not in killed:
                    os.kill(process, signal.SIGKILL)
                    killed.add(process)
            time.sleep(0.01)

    threading.Thread(target=kill, daemon=True).start()
    sleeping = Module("import time\ndef f(x):\n    time.sleep(60)\n", "f(1)", ("f",))
    yield Task("doomed", sleeping, 60.0)
    yield Task("next", GOOD, 60.0)


def test_workers_end_with_the_process_that_started_them(needs_bubblewrap: None) -> None:
    script = "import os\nfrom kdtool_programs import *\ns = Sandbox(2).__enter__()\n"
    script += "print(s._workers[0]._process.pid, flush=True)\n"
    script += "loop = Module('while True: pass', '')\nlist(s.run([Task('a', loop, 99.0)]))\n"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for folder in _left():
        shutil.rmtree(folder)


def test_missing_bubblewrap_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="apt-get install bubblewrap") as caught:
        Sandbox()
    assert caught.value.exit_code == 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo bubblewrap 0.6.1", "is too old: expected 0.8"),
        ("[ $1 = --version ] && echo bubblewrap 0.8.0", "sysctl kernel.unprivileged_userns_clone=1"),
        (
            "[ $1 = --version ] && echo bubblewrap 0.8.0 || "
            "{ echo bwrap: execvp /python/bin/python3: No such file or directory >&2; exit 1; }",
            "the sandbox cannot open a file that Python needs",
        ),
    ],
)
def test_sandbox_that_does_not_work_is_refused_with_the_remedy(
    fake_program: Fake, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    fake_program("bwrap", script)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    before = _descriptors(), _left()
    with pytest.raises(SandboxError, match=said), Sandbox():
        pass
    assert (_descriptors(), _left()) == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_sandbox_that_isolates_nothing_is_refused(fake_program: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = (
        '[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit\nwhile [ "$1" != -- ]; do shift; done; shift 2; '
        f'exec {base_executable()} "$@"'
    )
    fake_program("bwrap", fake)
    monkeypatch.setattr("kdtool_programs.sandbox.seccomp_filter", lambda: b"")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SandboxError, match="did not run: failed"), Sandbox():
        pass


def test_other_systems_and_architectures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(seccomp_filter("aarch64")) % 8 == 0
    assert seccomp_filter("arm64") == seccomp_filter("aarch64") != seccomp_filter("x86_64")
    with pytest.raises(SandboxError, match="riscv64"):
        seccomp_filter("riscv64")
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SandboxError, match="needs Linux; this is darwin"):
        Sandbox()


def test_container_has_no_network_no_rights_and_no_image_from_elsewhere(
    fake_program: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program("docker", "exit 1")
    command = container("docker", "python:3.12-slim")
    joined = " ".join(command[:-6])
    for part in ("--network none", "--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--pull never"):
        assert part in joined
    for part in ("--user USER", "--pids-limit 256", "--memory 2147483648", "--ipc none", "--rm", "mode=1777"):
        assert part in joined
    assert "--env https_proxy= --env HTTPS_PROXY= " in joined
    assert "--tmpfs /dev/mqueue:ro" in joined
    assert "--oom-score-adj 1000" in joined
    assert joined.endswith("--init=false --no-healthcheck --entrypoint python3 python:3.12-slim -I")
    assert "/usr:" not in joined
    with pytest.raises(SandboxError, match="is the service running, and is the image here"), Sandbox(engine="docker"):
        pass
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxError, match="podman is not here"):
        Sandbox(engine="podman")


def test_container_is_ended_by_its_name(tmp_path: Path, fake_program: Fake) -> None:
    fake_program("docker", f"echo $1 $2 $3 >> {tmp_path}/asked; [ $1 = run ] && exec sleep 60")
    worker = Worker(container("docker", "image"), False, 0, ending=container_ending("docker"))
    worker.deadline = time.monotonic()  # as it has while a task runs
    while not (tmp_path / "asked").exists():
        time.sleep(0.01)
    worker.close()
    run, kill = (tmp_path / "asked").read_text().splitlines()
    assert run.startswith("run --name kdtool-sandbox-")
    assert kill == run.replace("run --name", "kill")


def test_engine_is_started_in_the_environment_that_says_where_its_service_is(
    fake_program: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_program("docker", "echo at $DOCKER_HOST >&2; exit 1")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    with pytest.raises(SandboxError, match=r"at unix:///run/user/1000/docker\.sock"), Sandbox(engine="docker"):
        pass


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_container_runs_programs(engine: Engine) -> None:
    look = [engine, "image", "inspect", "python:3.11-slim"]
    if shutil.which(engine) is None or subprocess.run(look, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{engine} or its image python:3.11-slim is not here: no container was run")
    killing = Module("import os\ndef f(x):\n    os.kill(-1, 9)\n    return 7\n", GOOD.tests, GOOD.names)
    leaving = Module(f"{_LEAVING}{GOOD.source}", GOOD.tests, GOOD.names)
    works = {"good": GOOD, "killing": killing, "leaving": leaving, "loop": Module("while True: pass", ""), "next": GOOD}
    works |= {"writing": Module(f"{_WRITING}{GOOD.source}", GOOD.tests, GOOD.names), "last": GOOD}
    with Sandbox(engine=engine) as sandbox:
        verdicts = {verdict.id: verdict for verdict in sandbox.run(Task(name, one, 2.0) for name, one in works.items())}
    expected = ["passed", "failed", "passed", "timed out", "passed", "passed", "passed"]
    assert [verdicts[name].status for name in works] == expected, verdicts
    assert {verdict.isolation for verdict in verdicts.values()} == {"isolated"}
    with Sandbox(workers=2, engine=engine) as sandbox:
        assert next(sandbox.run([Task("endless", works["loop"], 600.0), Task("good", GOOD, 60.0)])).id == "good"
    assert _containers(engine) == ""


def _containers(engine: str) -> str:
    """Return which containers of sandboxes there are, once those that ended are away."""
    for _ in range(20):
        command = [engine, "ps", "--all", "--quiet", "--filter", "name=kdtool-sandbox-"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if not found:
            break
        time.sleep(0.5)
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_unsafe_mode_is_in_every_verdict_and_leaves_nothing(descendants: Descendants) -> None:
    before = descendants(), _descriptors(), _left()
    program = Program({"a.txt": "x"}, (Step(("/bin/cat", "a.txt"), "tests"),))
    with Sandbox(workers=2, unsafe_run_without_isolation=True) as sandbox:
        tasks = [Task("a", GOOD, 60.0), Task("b", program, 60.0), Task("c", Module("while True: pass", ""), 0.3)]
        verdicts = {verdict.id: verdict for verdict in sandbox.run([*tasks, Task("d", GOOD, 60.0)])}
    assert [verdicts[name].status for name in "abcd"] == ["passed", "passed", "timed out", "passed"]
    assert {verdict.isolation for verdict in verdicts.values()} == {"UNSAFE: not isolated"}
    assert (descendants(), _descriptors(), _left()) == before


def test_program_that_ends_its_keeper_has_failed(needs_bubblewrap: None, shell: Language) -> None:
    killing = Program({}, (Step(("/bin/sh", "-c", "kill -9 $PPID; sleep 9"), "tests"),))
    with Sandbox(languages=[shell]) as sandbox:
        first, second = sandbox.run([Task("killing", killing, 5.0), Task("next", GOOD, 60.0)])
    assert (first.status, first.reason) == ("failed", "it has ended what should end it")
    assert second.has_passed


def test_no_workers_are_a_mistake() -> None:
    with pytest.raises(kdtool.UsageError, match="workers: 0"):
        Sandbox(workers=0)
