"""Client of llama.cpp's server, which runs in a separate process on the loopback interface."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import urlsplit

import kdtool

from kdtool_exporter_gguf._process import READY

__all__ = ["LlamaCpp", "RefusedError"]


class RefusedError(Exception):
    """The server refused a request; the message and `kind` ("" for none) are the server's."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class LlamaCpp(AbstractContextManager["LlamaCpp"]):
    """A running server of one GGUF file.

    Args:
        file: the model.
        context: maximum tokens of a prompt with its answer; the model's own context is the upper limit.
        threads: number of CPU threads; None uses llama.cpp's default.

    Raises:
        UsageError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None) -> None:
        self._file = file
        self._key = secrets.token_urlsafe(16)
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kdtool_exporter_gguf._process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        try:
            self._address = self._start({"model": str(file), "context": context, "threads": threads, "key": self._key})
        except BaseException:
            self.close()
            raise

    def get(self, path: str) -> Any:
        """Return the response to a GET request. Raises as `post`."""
        return self._send("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the response to a POST request.

        Raises:
            RefusedError: the server refused this request.
            PluginError: llama.cpp has ended.
        """
        return self._send("POST", path, json.dumps(body))

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, settings: Mapping[str, Any]) -> str:
        """Send the settings to the process, and return the host and port that it listens on."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        try:
            stdin.write(json.dumps(settings).encode() + b"\n")
            stdin.flush()
        except OSError:  # it ended at once; its last line of output explains why
            pass
        for line in stdout:
            if line.startswith(READY.encode()):
                return urlsplit(line.decode().removeprefix(READY).strip()).netloc
        raise kdtool.UsageError(f"llama.cpp does not open {self._file}: {self._last_words()}; convert the model again")

    def _send(self, method: str, path: str, body: str | None) -> Any:
        connection = HTTPConnection(self._address)  # http.client uses no proxy
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException) as error:
            raise kdtool.PluginError(f"llama.cpp ended over {self._file}: {self._last_words()}") from error
        finally:
            connection.close()
        if response.status != 200:
            problem = answer.get("error", {})
            raise RefusedError(problem.get("message", f"status {response.status}"), problem.get("type", ""))
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", errors="replace").strip().splitlines()
        return f"exit status {code}, {lines[-1] if lines else 'no message'}"
