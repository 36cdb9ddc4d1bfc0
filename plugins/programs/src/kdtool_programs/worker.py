"""One worker: a process of a sandbox with a tester inside, and the connection to it."""

from __future__ import annotations

import json
import marshal
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any, cast

from kdtool_programs.commands import NAME, USER
from kdtool_programs.inside import messages
from kdtool_programs.processes import calm, children, descendants, memory_of
from kdtool_programs.tasks import WAITING, Clock, Limit
from kdtool_programs.view import PACKAGES

_ENDING = 5.0
_KILLING = 30.0
_MODULES = ("values", "messages", "peer", "keeper", "tester")
_REMARKS = 2000
_BYTES_OF_A_FILE = 2**11
"""Memory that the kernel needs at most for a file, a folder or a link with a long name, regardless of its content."""
_FIRST_USER, _USERS, _NOBODY = 20_000, 40_000, 65_534
"""Users of containers: an image seldom has them, and an engine without root has 65,536."""
_FORMAT = 4
"""The version of marshal's format that all Pythons read that may be inside."""


@cache
def _modules(compiled: bool) -> list[tuple[str, CodeType | str | None]]:
    """Return the modules of tester, keeper and candidate, in an order in which none needs a later one."""
    modules: list[tuple[str, CodeType | str | None]] = [("kdtool_programs", ""), ("kdtool_programs.inside", "")]
    for name in (f"kdtool_programs.inside.{name}" for name in _MODULES):
        spec = find_spec(name)
        loader = cast("InspectLoader", spec.loader if spec else None)
        modules.append((name, loader.get_code(name) if compiled else loader.get_source(name)))
    return modules


class Ended(Exception):  # noqa: N818 (reads as "the worker ended")
    """The worker ended, or does not answer; the message is its last output."""


class Worker:
    """A started sandbox. `deadline` is when its answer is overdue; None while it has nothing to do.

    Args:
        command: what starts it.
        compiled: whether the Python inside is the one outside, so that it can be handed compiled code.
        number: of this worker; workers with different ones run on different processors, as far as there are enough.
        ending: a further command that ends the sandbox, if it does not end with the command's process: the engine of a
            container, which finds its service, its settings and its programs by this process's environment.
    """

    def __init__(self, command: Sequence[str], compiled: bool, number: int, ending: Sequence[str] = ()) -> None:
        self._compiled = compiled
        self.number = number
        self._folder = tempfile.mkdtemp(prefix="kdtool-sandbox-")
        substitutes = {NAME: Path(self._folder).name, USER: f"{_FIRST_USER + number % _USERS}:{_NOBODY}"}
        command, self._ending = ([substitutes.get(part, part) for part in parts] for parts in (command, ending))
        self.connection, inside = socket.socketpair()
        self._remarks = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        with inside:
            self._process = subprocess.Popen(  # noqa: S603 (the sandbox)
                command,
                stdin=inside.fileno(),
                stdout=inside.fileno(),
                stderr=self._remarks,
                cwd=self._folder,
                start_new_session=True,
                env=None if ending else {"LANG": "C.UTF-8"},
            )
        self.deadline: float | None = None
        self._space: int | None = None
        self._inside: list[int] = []

    def greet(self, filter_: bytes, of_tasks: bytes) -> None:
        """Hand over the tester's code, the filter of system calls, and the additional one of tasks.

        Raises:
            Ended: it does not take them.
        """
        greeting = {"modules": _modules(self._compiled), "number": self.number, "packages": str(PACKAGES)}
        self._hand(marshal.dumps({**greeting, "filter": filter_, "of tasks": of_tasks}, _FORMAT))

    def ready(self, seconds: float) -> dict[str, Any]:
        """Wait for the tester, and return its description of itself.

        Raises:
            Ended: the tester does not run.
        """
        self.connection.settimeout(seconds)
        try:
            begun, descriptors, _, _ = socket.recv_fds(self.connection, 8, 1)
        except OSError as error:
            raise Ended(self._last_output()) from error
        self._space = descriptors[0] if descriptors else None
        self._inside = children(self._process.pid)
        return self._answer(seconds, begun)

    def start(self, parts: Sequence[bytes], limits: Sequence[Limit], grace: float) -> None:
        """Hand over a task's frames; an answer is overdue `grace` seconds after all its time on the clock.

        Raises:
            Ended: the worker does not take them.
        """
        self.deadline = time.monotonic() + WAITING * sum(limit.seconds for limit in limits) + grace
        self._limits = limits
        self.clock = Clock(limits[0], self._process.pid)
        for part in parts:
            self._hand(part)

    def answer(self) -> dict[str, Any] | None:
        """Return the answer whose first bytes have arrived; None if it announces a step.

        Raises:
            Ended: none comes.
        """
        deadline, self.deadline = self.deadline, None
        answer = self._answer(_ENDING)
        if "step" not in answer:
            return answer
        self.clock = Clock(self._limits[answer["step"]], self._process.pid)
        self.deadline = deadline
        return None

    def overdue(self) -> str:
        """Return why the task's time is over; "" if it is not."""
        stuck = self.deadline is not None and self.deadline < time.monotonic()
        return self.clock.look() or ("no verdict, although its time on the clock is over" if stuck else "")

    def memory(self) -> int:
        """Return the bytes that all processes of the sandbox use, and the kernel uses for them."""
        used = 0
        if self._space is not None:
            space = os.fstatvfs(self._space)
            used = _BYTES_OF_A_FILE * (space.f_files - space.f_ffree)
        return memory_of(self._process.pid) + used

    def calm(self) -> None:
        """Lower the priority of a task that keeps more processors busy than its share."""
        if not self._ending:  # a container's processes are the engine's
            calm(self._process.pid)

    def leave(self) -> None:
        """Let the sandbox end by itself; `close` waits for it."""
        self.connection.close()

    def close(self) -> None:
        """End the sandbox and all that is in it."""
        self.leave()
        try:
            if self.deadline is not None:
                self._kill()
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()
        self._reap_orphan()
        self._remarks.close()
        if self._space is not None:
            os.close(self._space)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        if self._ending:
            with suppress(subprocess.TimeoutExpired):
                subprocess.run(self._ending, capture_output=True, check=False, timeout=_KILLING)  # noqa: S603 (the engine)
            self._process.kill()
            return
        for process in descendants(self._process.pid):  # bubblewrap then waits for its first process, and ends
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING)
        self._process.kill()

    def _reap_orphan(self) -> None:
        """Wait for the sandbox's first process if bubblewrap was killed and this process adopts orphans."""
        if self._process.returncode < 0:
            for process in self._inside:
                with suppress(ChildProcessError):
                    os.waitpid(process, 0)

    def _hand(self, part: bytes) -> None:
        self.connection.settimeout(_ENDING)
        try:
            self.connection.sendall(len(part).to_bytes(8, "big") + part)
        except OSError as error:
            raise Ended(self._last_output()) from error

    def _answer(self, seconds: float, begun: bytes = b"") -> dict[str, Any]:
        self.connection.settimeout(seconds)
        try:
            size = int.from_bytes(begun + self._exactly(8 - len(begun)), "big")
            answer: dict[str, Any] = json.loads(self._exactly(min(size, messages.LARGEST)))
        except (OSError, ValueError) as error:
            raise Ended(self._last_output()) from error
        return answer

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.connection.recv(size - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data

    def _last_output(self) -> str:
        self._remarks.seek(0, 2)
        self._remarks.seek(max(0, self._remarks.tell() - _REMARKS))
        return self._remarks.read().decode("utf-8", "replace").strip()
