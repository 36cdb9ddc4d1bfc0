"""llama.cpp's server in a process of its own, spoken to over the loopback interface."""

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
    """The server refuses a request; the message is its own, and so is `kind`, "" where it names none."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class LlamaCpp(AbstractContextManager["LlamaCpp"]):
    """A running server of one GGUF file.

    Args:
        file: the model.
        context: tokens of a prompt and its answer at most; the model's own context where that is shorter.
        threads: of the processor; None leaves them to llama.cpp.

    Raises:
        UsageError: llama.cpp does not open the file.
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
            self._address = self._started(
                {"model": str(file), "context": context, "threads": threads, "key": self._key}
            )
        except BaseException:
            self.close()
            raise

    def get(self, path: str) -> Any:
        """Return what the server tells at a path. Raises as `post`."""
        return self._asked("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the server's answer.

        Raises:
            RefusedError: this request cannot be answered.
            PluginError: llama.cpp has ended.
        """
        return self._asked("POST", path, json.dumps(body))

    def close(self) -> None:
        """End the process. Safe to call twice."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self, told: Mapping[str, Any]) -> str:
        """Tell the process what to serve, and return the host and port that it answers with."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        try:
            stdin.write(json.dumps(told).encode() + b"\n")
            stdin.flush()
        except OSError:  # it ended at once; its last words say why
            pass
        for line in stdout:
            if line.startswith(READY.encode()):
                return urlsplit(line.decode().removeprefix(READY).strip()).netloc
        raise kdtool.UsageError(f"llama.cpp does not open {self._file}: {self._last_words()}")

    def _asked(self, method: str, path: str, body: str | None) -> Any:
        connection = HTTPConnection(self._address)  # of http.client: no proxy is asked
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
            told = answer.get("error", {})
            raise RefusedError(told.get("message", f"status {response.status}"), told.get("type", ""))
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", errors="replace").strip().splitlines()
        return f"exit status {code}, {lines[-1] if lines else 'no message'}"
