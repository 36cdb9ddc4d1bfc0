"""Child processes of llama.cpp, and the client of its server on the loopback interface.

llama.cpp runs in a child process, so that its aborts on unexpected input do not kill the run.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any, Self
from urllib.parse import urlsplit

import kdtool

READY = "ready: "
"""Prefix of the line that a process writes once it has opened its file; the rest of the line is JSON."""
_SECONDS_TO_END = 10
"""Seconds for a process to end after it closed its connection."""


class Child(AbstractContextManager["Child"]):
    """A running process of one GGUF file; `ready` is its output once it was ready.

    Args:
        module: the process's module in this package.
        file: the model.
        settings: sent to the process as one line of JSON, with the file's path as `model`.

    Raises:
        UsageError: llama.cpp cannot open the file.
    """

    def __init__(self, module: str, file: Path, settings: Mapping[str, Any]) -> None:
        self._file = file
        self._ending, self._words = Lock(), ""
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", f"kdtool_export.gguf.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise AssertionError("both are pipes")
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        try:
            self.ready = self._start({**settings, "model": str(file)})
        except BaseException:
            self.close()
            raise

    def end_error(self) -> kdtool.PluginError:
        """Return the error for a process that ended when it was asked."""
        return kdtool.PluginError(f"llama.cpp ended over {self._file.name}: {self._last_words()}")

    def memory(self) -> int | None:
        """Return the bytes of memory that the process takes, a part of those it shares; None if the system does not tell."""
        try:
            shares = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            return None
        return sum(int(line.split()[1]) * 1024 for line in shares.splitlines() if line.startswith("Pss:"))

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self.process.kill()
        self.process.communicate()
        self._last_words()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, settings: Mapping[str, Any]) -> Any:
        try:
            self.stdin.write(json.dumps(settings).encode() + b"\n")
            self.stdin.flush()
        except OSError:  # it ended at once; its last line of output explains why
            pass
        for line in self.stdout:
            if line.startswith(READY.encode()):
                return json.loads(line.decode().removeprefix(READY))
        raise kdtool.UsageError(f"llama.cpp does not open {self._file}: {self._last_words()}; convert the model again")

    def _last_words(self) -> str:
        try:
            code = self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:  # it stopped answering
            self.process.kill()
            code = self.process.wait()
        with self._ending:  # several threads may wait for answers
            if not self._errors.closed:
                self._errors.seek(0)
                lines = self._errors.read().decode("utf-8", errors="replace").strip().splitlines()
                self._words = f"exit status {code}, {lines[-1] if lines else 'no message'}"
                self._errors.close()
            return self._words


_EVENT = b"data: "


class RefusedError(Exception):
    """The server refused a request; the message and `kind` ("" for none) are the server's."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class LlamaCpp(Child):
    """A running server of one GGUF file.

    Args:
        file: the model.
        context: maximum tokens of a prompt with its answer; the model's own context is the upper limit.
        threads: number of CPU threads; None uses llama.cpp's default.
        slots: number of answers at once, each with the whole context.

    Raises:
        UsageError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None, slots: int = 1) -> None:
        self._key = secrets.token_urlsafe(16)
        settings = {"context": context, "threads": threads, "slots": slots, "key": self._key}
        super().__init__("server_child", file, settings)
        self._address = urlsplit(self.ready).netloc

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the response to a POST request.

        Raises:
            RefusedError: the server refused this request.
            PluginError: llama.cpp has ended.
        """
        with self._send(path, body) as response:
            return json.loads(response.read())

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[Any, None, None]:
        """Yield the events of a response while it is generated, up to the one with `stop`. Closing the iterator ends it.

        Raises:
            RefusedError: the server refused this request.
            PluginError: llama.cpp has ended.
        """
        with self._send(path, {**body, "stream": True}) as response:
            for line in response:
                if not line.startswith(_EVENT):
                    continue
                event = json.loads(line.removeprefix(_EVENT))
                if "error" in event:
                    raise _refusal(event["error"])
                yield event
                if event["stop"]:
                    return
            raise IncompleteRead(b"")

    @contextmanager
    def _send(self, path: str, body: Mapping[str, Any]) -> Iterator[HTTPResponse]:
        connection = HTTPConnection(self._address)  # http.client uses no proxy
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            with connection.getresponse() as response:
                if response.status != 200:
                    raise _refusal(json.loads(response.read()).get("error", {}), response.status)
                yield response
        except (OSError, HTTPException) as error:
            raise self.end_error() from error
        finally:
            connection.close()


def _refusal(problem: Mapping[str, Any], status: int = 200) -> RefusedError:
    return RefusedError(problem.get("message", f"status {status}"), problem.get("type", ""))
