"""The sandbox: some workers, and a loop that hands tasks to them and collects verdicts.

A task that may have failed because of other tasks is run once more at the end, with no other running.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Literal, Self

import kdtool

from kdtool_programs.commands import bubblewrap, container, container_ending, unsafe
from kdtool_programs.languages import Language, language
from kdtool_programs.processes import pipes_are_short
from kdtool_programs.seccomp import seccomp_filter, task_filter
from kdtool_programs.tasks import Isolation, Module, Program, SandboxError, Task, Verdict, frames_of
from kdtool_programs.view import Package
from kdtool_programs.worker import Ended, Worker

Engine = Literal["bubblewrap", "docker", "podman"]
_LARGEST_PART = 64 * 2**20
"""Bytes of a program, or of its tests, at most."""
_STARTING = 30.0
_GRACE = 15.0
"""Seconds beyond its limits after which a silent worker counts as dead."""
_LOOK = 0.1
"""Seconds between checks of the tasks' memory: most tasks end before the first."""
_HEADROOM = 128 * 2**20
"""Bytes of tester, keeper and tests, in addition to a task."""
_TRIAL_SECONDS, _TRIAL_MEMORY = 60.0, 2**30
_TRIED: set[str] = set()
"""Kinds of sandboxes, with languages that were tried there: a compiler may take long, so each process tries it once."""
_PROBE_ISOLATED = """\
import _socket, os
assert answer([1]) == 42 and os.getpid() == 1 and os.geteuid() >= 20000
try:
    _socket.socket(_socket.AF_INET)
except OSError:
    pass
else:
    raise RuntimeError("system calls are not filtered")
mounted = [line.split()[1] for line in open("/proc/mounts")] if os.path.exists("/proc/mounts") else []
for folder in ("/", "/dev", "/usr", *mounted):
    if folder != "/tmp" and os.path.isdir(folder) and os.access(folder, os.W_OK):
        raise RuntimeError(folder + " can be written")
for name in ("/etc/passwd", "/root/.bashrc", "/usr/share/doc", "/usr/local/share"):
    if PLACE == "bubblewrap" and os.path.exists(name):
        raise RuntimeError(name + " can be seen")
"""


class Sandbox:
    """Runs generated programs. Use it with `with`: its workers start then, and are gone afterwards.

    Args:
        workers: number of tasks that run in parallel.
        engine: bubblewrap, or docker or podman if bubblewrap is not available; a container starts ten times slower.
        image: for docker and podman, a local image that has Python 3.11 or newer as `python3`.
        languages: those of the programs to come; their toolchains are read-only inside. Python needs not be named.
        packages: installed ones that programs in Python may import, in bubblewrap.
        unsafe_run_without_isolation: run programs with the rights of this process; every verdict records it.

    Raises:
        SandboxError: programs cannot be run safely on this machine, or a toolchain does not run in the sandbox; the
            message names the remedy.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        engine: Engine = "bubblewrap",
        image: str = "python:3.11-slim",
        languages: Sequence[Language] = (),
        packages: Sequence[Package] = (),
        unsafe_run_without_isolation: bool = False,
    ) -> None:
        if workers < 1:
            raise kdtool.UsageError(f"workers: {workers}; at least one must run")
        self._count = workers
        self._engine = engine
        self._languages = languages
        self._packages = packages
        self._kind = (engine, image, unsafe_run_without_isolation, *packages)
        self._unsafe = unsafe_run_without_isolation
        self._ending: list[str] = []
        if self._unsafe:
            self._command, self._filters = unsafe(), (b"", b"")
            return
        if not sys.platform.startswith("linux"):
            raise SandboxError(
                f"generated code runs only in a sandbox, which needs Linux; this is {sys.platform}: use a virtual machine"
            )
        self._filters = seccomp_filter(), task_filter()
        if engine == "bubblewrap":
            self._command = bubblewrap(_toolchains(languages), packages)
        else:
            self._command, self._ending = container(engine, image), container_ending(engine)

    def __enter__(self) -> Self:
        self._workers: list[Worker] = []
        self._running: dict[Worker, Running] = {}
        self._looked = time.monotonic()
        self._always_short = pipes_are_short()
        try:
            self._fill()
            self._probe()
            self._try_languages()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers and what they run."""
        for worker in self._workers:
            worker.leave()
        for worker in self._workers:
            worker.close()
        self._workers, self._running = [], {}

    def run(self, tasks: Iterable[Task]) -> Generator[Verdict, None, None]:
        """Run tasks and give verdicts as they come, in any order; tasks are taken as they can be started.

        A task that failed for lack of processors or pipes is run once more at the end, with no other task running.

        Raises:
            SandboxError: no new worker could be started in place of one that ended.
        """
        queue = Queue(tasks)
        try:
            while True:
                yield from self._hand_out(queue)
                if not self._running:
                    return
                yield from self._collect(queue)
        finally:
            for worker in list(self._running):
                self._replace(worker)

    def _hand_out(self, queue: Queue) -> Iterator[Verdict]:
        """Start tasks until every worker has one, or none is left."""
        while True:
            self._fill()  # a worker may have ended while it had nothing to do
            worker = next((worker for worker in self._workers if worker not in self._running), None)
            running = None if worker is None else queue.take(others=bool(self._running))
            if worker is None or running is None:
                return
            parts, limits = frames_of(running.task)
            if (size := max(map(len, parts))) > _LARGEST_PART:
                reason = f"{size:,} bytes exceed the limit of {_LARGEST_PART:,}"
                yield Verdict(running.task.id, "refused", self._isolation(running.task), reason)
                continue
            self._running[worker] = running
            try:
                worker.start(parts, limits, _GRACE)
            except Ended as ended:
                yield from self._retry_or_fail(worker, str(ended), queue)

    def _collect(self, queue: Queue) -> Iterator[Verdict]:
        """Wait until something happens, or until it is time to check the memory of tasks."""
        connections = {worker.connection.fileno(): worker for worker in self._running}
        poll = select.poll()  # select() knows no descriptor above 1,023
        for descriptor in connections:
            poll.register(descriptor, select.POLLIN)
        ready = [connections[descriptor] for descriptor, _ in poll.poll(1000 * _LOOK)]
        for worker in ready:
            try:
                answer = worker.answer()
            except Ended as ended:
                yield from self._retry_or_fail(worker, str(ended), queue)
                continue
            if answer is None:
                continue
            running = self._running.pop(worker)
            if answer.pop("retire"):
                self._replace(worker)
            answer |= {name: _readable(answer.get(name, "")) for name in ("reason", "stderr")}
            late = answer.pop("late", False)
            verdict = Verdict(running.task.id, isolation=self._isolation(running.task), **answer)
            yield from self._settle(running, verdict, late, queue)
        if time.monotonic() > self._looked + _LOOK:
            yield from self._look(queue)

    def _settle(self, running: Running, verdict: Verdict, late: bool, queue: Queue) -> Iterator[Verdict]:
        """Yield a verdict, or queue the task to run by itself if it is `late` or lacked pipes: others may be the cause."""
        if verdict.has_passed or running.alone or not (late or running.disturbed or self._lacks_pipes()):
            yield verdict
        else:
            queue.alone.append(Running(running.task, alone=True))

    def _look(self, queue: Queue) -> Iterator[Verdict]:
        self._looked = time.monotonic()
        short = self._lacks_pipes()
        for worker, running in list(self._running.items()):
            task = running.task
            running.disturbed |= short
            if (held := worker.memory()) > task.memory + _HEADROOM:
                self._replace(worker)
                reason = f"its processes held {held // 2**20:,} MiB; {task.memory // 2**20:,} are allowed"
                yield Verdict(task.id, "failed", self._isolation(task), reason)
            elif why := worker.overdue():
                self._replace(worker)
                spent = worker.clock.processor, worker.clock.wall
                verdict = Verdict(task.id, "timed out", self._isolation(task), why, "", *spent)
                yield from self._settle(running, verdict, False, queue)
            else:
                worker.calm()

    def _lacks_pipes(self) -> bool:
        """Return whether pipes have become short since the start; if they were before, tasks are not the cause."""
        return not self._always_short and pipes_are_short()

    def _retry_or_fail(self, worker: Worker, why: str, queue: Queue) -> Iterator[Verdict]:
        """Retry a task whose worker ended; a task that ended a worker before has failed."""
        running = self._running[worker]
        self._replace(worker)
        if running.again:
            yield Verdict(running.task.id, "failed", self._isolation(running.task), f"its worker ended twice: {why}")
        else:
            queue.again.append(replace(running, again=True))

    def _replace(self, worker: Worker) -> None:
        self._running.pop(worker, None)
        self._workers.remove(worker)
        worker.close()

    def _fill(self) -> None:
        """Start workers until there are as many as asked for."""
        started = []
        try:
            while len(self._workers) < self._count:
                compiled = self._unsafe or self._engine == "bubblewrap"
                started.append(Worker(self._command, compiled, self._free_number(), self._ending))
                self._workers.append(started[-1])
            for worker in started:
                worker.greet(*self._filters)
            for worker in started:
                worker.ready(_STARTING)
        except (OSError, Ended) as error:
            raise SandboxError(self._remedy(str(error))) from error

    def _free_number(self) -> int:
        """Return a number that no worker has, other sandboxes' workers seldom."""
        taken = {worker.number for worker in self._workers}
        return next(number for number in count(os.getpid()) if number not in taken)

    def _probe(self) -> None:
        tests = "assert answer([1]) == 42" if self._unsafe else f"PLACE = {self._engine!r}\n{_PROBE_ISOLATED}"
        source = "def answer(numbers):\n    return 41 + len(numbers)\n"
        (verdict,) = self.run([Task("probe", Module(source, tests, ("answer",)), seconds=10.0)])
        if not verdict.has_passed:
            raise SandboxError(self._remedy(f"{verdict.status}, {verdict.reason}"))

    def _try_languages(self) -> None:
        works = {spoken.name: spoken.run(spoken.trial, "") for spoken in self._languages}
        works |= {
            f"python with {each.name}": Module(f"import {', '.join(each.modules)}", "") for each in self._packages
        }
        keys = {name: repr((*self._kind, work)) for name, work in works.items() if work != Module("", "")}
        tasks = [
            Task(name, works[name], _TRIAL_SECONDS, _TRIAL_MEMORY) for name, key in keys.items() if key not in _TRIED
        ]
        for verdict in self.run(tasks):
            if not verdict.has_passed:
                raise SandboxError(
                    f"programs in {verdict.id} cannot be run: one that does nothing else was tried in the sandbox, and "
                    f"{verdict.status}: {verdict.reason}\n{verdict.stderr.strip()}\n"
                    "a toolchain must be in /usr or in a separate folder, and need no files elsewhere; of a package, name "
                    "in `packages` all that it needs, or remove it"
                )
            _TRIED.add(keys[verdict.id])

    def _remedy(self, why: str) -> str:
        problem = (
            f"a program that was started to try the sandbox ({self._engine}) did not run: {why or 'without a message'}"
        )
        if self._engine != "bubblewrap":
            return f"{problem}\nis the service running, and is the image here (docker images)?"
        return f"{problem}\n{_UNREADABLE if _OF_FILES.search(why) else _NO_NAMESPACES}"

    def _isolation(self, task: Task) -> Isolation:
        if self._unsafe:
            return "UNSAFE: not isolated"
        return "isolated" if isinstance(task.work, Module) else "isolated, verdict forgeable"


def _toolchains(languages: Sequence[Language]) -> list[Path] | None:
    """Return the folders of toolchains; None if Python is the only language: the tester brings it."""
    others = [spoken for spoken in languages if isinstance(spoken.run(spoken.trial, ""), Program)]
    return [folder for spoken in others for folder in spoken.folders()] if others else None


def missing(languages: Sequence[str] = (), packages: Sequence[Package] = ()) -> tuple[str, ...]:
    """Return the reasons why programs cannot be run safely on this machine, with remedies; empty if they can.

    For `kdtool_check` of components that run programs: a sandbox is started and tried, and a program of each language.
    """
    reasons = []
    for spoken in ([], *([name] for name in languages)):
        try:
            with Sandbox(languages=[language(name) for name in spoken], packages=packages):
                pass
        except SandboxError as error:
            reasons.append(str(error))
    return tuple(dict.fromkeys(reasons))


_OF_FILES = re.compile(r"execvp|Can't (?:find|create|bind|open)|shared librar|No module named|Permission denied")
"""Errors of bubblewrap, the loader and Python about a file that cannot be opened in the sandbox."""
_UNREADABLE = """\
the sandbox cannot open a file that Python needs; expected an installation that every user may read, with libraries where
the loader finds them; install Python in another folder, or set engine to docker or podman"""
_NO_NAMESPACES = """\
if the kernel refuses user namespaces: sysctl kernel.unprivileged_userns_clone=1 (Debian), or
sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu 24.04 and newer);
in a container: start it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined;
in a chroot: leave it. Or use engine docker or podman."""


def _readable(text: str) -> str:
    """Write out what would do something to the terminal that shows a program's text."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\x{ord(character):02x}"
        for character in text
    )


@dataclass
class Running:
    """A running task."""

    task: Task
    again: bool = False
    """A worker that ended had begun it."""
    disturbed: bool = False
    """Others used up the pipes meanwhile."""
    alone: bool = False
    """It is tried for the second time, and no other runs."""


class Queue:
    """Tasks to start: those whose worker ended, then new ones, and at the end those to run with no other, one by one."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._new = (Running(task) for task in tasks)
        self.again: list[Running] = []
        self.alone: list[Running] = []

    def take(self, others: bool) -> Running | None:
        """Return the next task, None if there is none to start; `others`: some are running."""
        running = self.again.pop() if self.again else next(self._new, None)
        return self.alone.pop() if running is None and self.alone and not others else running
