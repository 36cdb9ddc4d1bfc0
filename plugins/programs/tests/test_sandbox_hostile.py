"""Hostile programs: none passes, none reaches what is not its own, and the next program notices nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import runpy
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdtool_programs import Module, Sandbox, Step, Task, Verdict

hostile: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile_programs.py"))))
Pair = Callable[..., tuple[Verdict, Verdict]]


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("secret") / "secret.txt"
    path.write_text("hidden")
    os.environ["KDTOOL_SECRET"] = path.name
    yield str(path)
    del os.environ["KDTOOL_SECRET"]


@pytest.fixture(scope="module")
def listener() -> Iterator[None]:
    """Listen on the abstract socket that attempts connect to: only the network namespace hides it."""
    with socket.socket(socket.AF_UNIX) as heard:
        heard.bind("\0kdtool-test")
        heard.listen()
        yield


@pytest.fixture(scope="module")
def pair(secret: str, listener: None, needs_bubblewrap: None) -> Iterator[Pair]:
    """Run a hostile program and then an honest one in the same worker, and give both verdicts."""
    with Sandbox() as sandbox:

        def run(source: str, tests: str, seconds: float) -> tuple[Verdict, Verdict]:
            tasks = [
                Task("hostile", Module(source, tests, ("f",)), seconds, memory=2**28),
                Task("honest", _HONEST, 30.0, memory=2**28),
            ]
            first, second = sandbox.run(tasks)
            assert (first.id, second.id) == ("hostile", "honest")
            return first, second

        yield run


_CLEAN = """
import os, tempfile
assert f(1) == 2
assert os.listdir("/tmp") == []
space = os.statvfs("/tmp")
assert space.f_bfree == space.f_blocks
with tempfile.TemporaryFile() as file:
    file.write(b"x")
assert os.getpriority(os.PRIO_PROCESS, 1) == os.getpriority(os.PRIO_PROCESS, 0)
"""


_HONEST = Module(hostile.HONEST, _CLEAN, ("f",))


@pytest.mark.parametrize("name", hostile.FORGERS)
def test_no_verdict_is_forged(pair: Pair, name: str) -> None:
    forged, honest = pair(hostile.FORGERS[name], "assert f(1) == 2", 1.0)
    assert forged.status in {"failed", "timed out"}
    assert "SyntaxError" not in forged.reason
    assert honest.has_passed, (forged, honest)


@pytest.mark.parametrize("caught", ["Exception", "BaseException"])
@pytest.mark.parametrize("name", hostile.DYING)
def test_to_die_is_not_to_raise(pair: Pair, name: str, caught: str) -> None:
    tests = f"raised = False\ntry:\n    f(-1)\nexcept {caught}:\n    raised = True\nassert raised"
    dead, honest = pair(hostile.DYING[name], tests, 1.0)
    assert (dead.status, dead.reason.partition(" (")[0]) == ("failed", "the program ended while it was tested")
    assert honest.has_passed, (dead, honest)


@pytest.mark.parametrize("name", hostile.FLOODS)
def test_no_flood_gets_over_the_edge(pair: Pair, name: str) -> None:
    flood, honest = pair(hostile.FLOODS[name], "assert list(f(1)) == 2", 0.2)
    assert flood.status in {"failed", "timed out"}
    assert flood.wall_seconds < 10
    assert honest.has_passed, (flood, honest)


@pytest.mark.parametrize("name", hostile.ATTEMPTS)
def test_nothing_outside_is_reached(pair: Pair, name: str, secret: str) -> None:
    if platform.machine() != "x86_64" and name in hostile.OF_X86_64:
        pytest.skip("numbers of system calls are those of x86_64")
    tried, honest = pair(hostile.reaching(name, secret), "'the-mark'\nassert f(1) == 'refused', f(1)", 30.0)
    assert tried.has_passed, tried
    assert honest.has_passed, (tried, honest)


_FORKS = """
import os, time
def f(x):
    for _ in range(10):
        if os.fork() == 0:
            a = []
            try:
                while True: a.append(b'x' * 2**22)
            except MemoryError: time.sleep(99)
    time.sleep(99)
"""
_MAPPINGS = """
import ctypes, mmap, os, time
C = ctypes.CDLL(None)
C.mmap.restype = ctypes.c_void_p
def f(x):
    size = 60_000 * mmap.PAGESIZE
    at = C.mmap(None, ctypes.c_size_t(size), 1, 0x22, -1, ctypes.c_long(0))
    for page in range(0, size, 2 * mmap.PAGESIZE):  # no page of them is ever there
        C.mprotect(ctypes.c_void_p(at + page), ctypes.c_size_t(mmap.PAGESIZE), 0)
    for _ in range(40):
        if os.fork() == 0: time.sleep(99)
    time.sleep(99)
"""
_EMPTY_FILES = """
import os, time
def f(x):
    for process in range(4):
        if os.fork(): continue
        os.mkdir(str(process))
        os.chdir(str(process))
        number = 0
        while True:
            number += 1
            os.mkdir(str(number))
    time.sleep(99)
"""
_LINKS = """
import os, time
def f(x):
    for number in range(225_000):
        os.symlink('target' * 20, f'{number:0240}')
    time.sleep(99)
"""


@pytest.mark.parametrize(
    "source", [_FORKS, _MAPPINGS, _EMPTY_FILES, _LINKS], ids=["processes", "mappings", "empty files", "links"]
)
def test_memory_of_all_processes_and_of_the_kernel_for_them_is_limited(pair: Pair, source: str) -> None:
    flood, honest = pair(source, "f(1)", 60.0)
    assert "MiB; 256 are allowed" in flood.reason, flood
    assert flood.status == "failed"
    assert honest.has_passed, honest


_PIPES = """
import os, time
def f(x):
    for _ in range(63):
        try:
            if os.fork() == 0:
                fill()
        except OSError: pass
    fill()
def fill():
    held = 0
    try:
        while True:
            _, end = os.pipe()
            os.set_blocking(end, False)
            try:
                while True: held += os.write(end, b'x' * 2**16)
            except BlockingIOError: pass
    except OSError: pass
    total = os.open('/tmp/held', os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(total, b'%d\\n' % held)
    time.sleep(99)
def seen():
    return sum(map(int, open('/tmp/held').read().split()))
"""


def test_what_waits_in_pipes_has_the_bound_that_is_documented(needs_bubblewrap: None) -> None:
    source = _PIPES + "\ndef g():\n    if os.fork() == 0: f(1)\n    time.sleep(2)\n    return seen()\n"
    with Sandbox() as sandbox:
        task = Task("pipes", Module(source, "assert 2**20 < g() <= 128 * 2**20, g()", ("g",)), 30.0)
        verdicts = list(sandbox.run([task, Task("honest", _HONEST, 30.0)]))
    assert [verdict.status for verdict in verdicts] == ["passed", "passed"], verdicts


_GREEDY = """
import os, time
def f(x):
    for _ in range(58):
        if os.fork() == 0:
            for attempt in (os.setsid, lambda: os.sched_setaffinity(0, range(os.cpu_count()))):
                try: attempt()
                except OSError: pass
            while True: pass
    time.sleep(99)
"""


def test_busy_processes_stay_on_one_processor_in_one_session_and_step_back(
    needs_bubblewrap: None, descendants: Callable[..., set[int]]
) -> None:
    with Sandbox() as sandbox:
        seen: list[tuple[set[int], int, int]] = []

        def look() -> None:
            worker = sandbox._workers[0]._process.pid
            for process in {worker, *descendants(worker)}:
                with contextlib.suppress(OSError):
                    about = os.sched_getaffinity(process), os.getsid(process), os.getpriority(os.PRIO_PROCESS, process)
                    seen.append(about)

        looking = threading.Timer(1.5, look)
        looking.start()
        tasks = [Task("greedy", Module(_GREEDY, "f(1)", ("f",)), 3.0), Task("honest", _HONEST, 30.0)]
        greedy, honest = sandbox.run(tasks)
        looking.join()
    busy = [about for about in seen if about[2] > 10]
    assert greedy.status == "timed out"
    assert honest.has_passed, honest
    assert len(busy) > 30, seen
    assert len({session for _, session, _ in busy}) == 1
    assert {len(processors) for processors, _, _ in busy} == {1}
    assert [about for about in seen if about[2] == 0]  # tester and keeper go on as before
    assert not [about for about in seen if 0 < about[2] <= 10]


_HOLDING = """\
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    const unsigned long size = %s, step = %s;
    char *held = mmap(0, size, PROT_READ | PROT_WRITE, %s | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), found = 0;
    for (unsigned long at = 0; at < size; at += step) found |= %s;
    if (size < 1ul << 32) munmap(held + step, size - step);
    sleep(1);
    return found;
}
"""
_OUTLIVING = """\
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *hold(void *nothing) {
    usleep(200000);
    const unsigned long size = 1ul << 30;
    memset(mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, size);
    sleep(1);
    _exit(0);
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, hold, 0);
    syscall(SYS_exit, 0);
}
"""
_SENDING = """\
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
static char message[1 << 16];
int main(void) {
    for (int process = 0; process < 10; process++) {
        if (fork()) continue;
        for (int pair = 0; pair < 100; pair++) {
            int ends[2], wanted = 1 << 22;
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends)) _exit(1);
            for (int end = 0; end < 2; end++) {
                setsockopt(ends[end], SOL_SOCKET, SO_SNDBUF, &wanted, sizeof wanted);
                while (write(ends[end], message, sizeof message) > 0) {}
            }
        }
        sleep(1);
        _exit(0);
    }
    while (wait(0) > 0) {}
}
"""
_SHARED_PAGES = _HOLDING % ("1ul << 30", "4096", "MAP_SHARED", "(held[at] = 1, 0)")  # only a page of them is kept
_PAGE_TABLES = _HOLDING % ("1ul << 39", "1ul << 21", "MAP_PRIVATE", "held[at]")  # they lead to zeros


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize(
    ("source", "reason"),
    [(_SHARED_PAGES, ""), (_PAGE_TABLES, ""), (_OUTLIVING, "MiB; 256 are allowed"), (_SENDING, "MiB; 256 are allowed")],
    ids=["shared pages", "page tables", "first thread has ended", "sockets"],
)
def test_memory_of_a_compiled_program_is_limited(run_steps: Callable[..., Verdict], source: str, reason: str) -> None:
    build = Step((str(shutil.which("gcc")), "program.c", "-o", "program", "-lpthread"), "compiler")
    verdict = run_steps(build, "exec ./program", memory=2**28, program_c=source)
    assert verdict.status == "failed", verdict
    assert reason in verdict.reason, verdict


def test_a_socket_keeps_the_buffer_that_it_has(pair: Pair) -> None:
    source = """
import socket
def f(x):
    ours, theirs = socket.socketpair()
    before = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    return ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before and ours.getsockopt(1, 8) == 2**15
"""
    kept, honest = pair(source, "assert f(1)", 30.0)
    assert kept.has_passed, kept
    assert honest.has_passed
