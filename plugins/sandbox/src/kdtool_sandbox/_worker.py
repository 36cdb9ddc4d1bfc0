"""One worker: a process that holds a sandbox with a server inside, and the connection to it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from kdtool_sandbox._inside import frames
from kdtool_sandbox._memory import held

__all__ = ["Ended", "Worker"]

_ENDING = 5.0
_MODULES = ("frames", "values", "peer", "candidate", "tester", "confining", "server")
"""In an order in which none needs a later one."""
_REMARKS = 2000


class Ended(Exception):  # noqa: N818 (what it says is that the worker ended)
    """The worker ended, or does not answer; the text says what it last said."""


class Worker:
    """A started sandbox. `deadline` is when its answer is overdue; None while it has nothing to do."""

    def __init__(self, command: Sequence[str]) -> None:
        self._folder = tempfile.mkdtemp(prefix="kdtool-sandbox-")
        self.connection, theirs = socket.socketpair()
        self._remarks = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (the sandbox)
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._remarks,
                cwd=self._folder,
                start_new_session=True,
                env={"LANG": "C.UTF-8"},
            )
        self.deadline: float | None = None

    def greet(self, filter_: bytes) -> None:
        """Hand over the server's code and the filter of system calls.

        Raises:
            Ended: it does not take them.
        """
        inside = files("kdtool_sandbox").joinpath("_inside")
        texts = [
            (f"kdtool_sandbox._inside.{name}", inside.joinpath(f"{name}.py").read_text("utf-8")) for name in _MODULES
        ]
        modules = [("kdtool_sandbox", ""), ("kdtool_sandbox._inside", ""), *texts]
        self._hand(json.dumps({"modules": modules, "filter": filter_.hex()}).encode())

    def ready(self, seconds: float) -> dict[str, Any]:
        """Return what the server says of itself once it runs.

        Raises:
            Ended: it does not run.
        """
        return self._answer(seconds)

    def start(self, parts: Sequence[bytes], seconds: float) -> None:
        """Hand over a task's frames; an answer is overdue after `seconds`.

        Raises:
            Ended: the worker does not take them.
        """
        self.deadline = time.monotonic() + seconds
        for part in parts:
            self._hand(part)

    def answer(self) -> dict[str, Any]:
        """Return the answer, of which the first bytes are here.

        Raises:
            Ended: none comes.
        """
        self.deadline = None
        return self._answer(_ENDING)

    def memory(self) -> int:
        """Return the bytes that all processes of the sandbox hold."""
        return held(self._process.pid)

    def close(self) -> None:
        """End the sandbox and all that is in it."""
        busy = self.deadline is not None
        self.connection.close()
        try:
            if busy:
                self._process.kill()
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._remarks.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _hand(self, part: bytes) -> None:
        self.connection.settimeout(_ENDING)
        try:
            self.connection.sendall(len(part).to_bytes(8, "big") + part)
        except OSError as error:
            raise Ended(self._said()) from error

    def _answer(self, seconds: float) -> dict[str, Any]:
        self.connection.settimeout(seconds)
        try:
            size = int.from_bytes(self._exactly(8), "big")
            answer: dict[str, Any] = json.loads(self._exactly(min(size, frames.LARGEST)))
        except (OSError, ValueError) as error:
            raise Ended(self._said()) from error
        return answer

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.connection.recv(size - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data

    def _said(self) -> str:
        self._remarks.seek(0, 2)
        self._remarks.seek(max(0, self._remarks.tell() - _REMARKS))
        return self._remarks.read().decode("utf-8", "replace").strip()
