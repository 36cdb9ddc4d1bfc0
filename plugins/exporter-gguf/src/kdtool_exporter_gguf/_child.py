"""A process of llama.cpp: it runs in a child, so its aborts on unexpected input do not kill the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any, Self

import kdtool

__all__ = ["READY", "Child"]

READY = "ready: "
"""Prefix of the line that a process writes once it has opened its file; the rest of the line is JSON."""

_PATIENCE = 10
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
            [sys.executable, "-m", f"kdtool_exporter_gguf.{module}"],
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
            code = self.process.wait(_PATIENCE)
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
