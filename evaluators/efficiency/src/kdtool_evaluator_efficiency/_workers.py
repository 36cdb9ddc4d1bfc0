"""One process a subject, all resident, asked in turns; JSON lines over pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import IO, Any

import kdtool
import torch
from kdtool_transformers import compute_dtype, pick_device

__all__ = ["Timings", "measure_in_turns"]

_DEADLINE_SECONDS = 900.0
"""A process that says nothing for so long is taken for dead."""


@dataclass
class Timings:
    """What one subject's process found; lists have one entry a turn."""

    device: str
    dtype: str
    threads: int
    prompt: int
    parameters: int
    bytes_before: int
    peak_bytes: int = 0
    device_bytes: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    tokens_per_second: list[float] = field(default_factory=list)


def measure_in_turns(
    folders: Mapping[str, Path], *, turns: int, prompt: int, generated: int, seconds: float, run: kdtool.RunInfo
) -> dict[str, Timings]:
    """Load every folder in a process of its own, then time them in turns, after one turn that is not counted.

    Raises:
        PluginError: a process failed; its last words are in the message.
    """
    device = pick_device()
    dtype = str(compute_dtype("auto", device)).removeprefix("torch.")
    task = {"device": str(device), "dtype": dtype, "threads": torch.get_num_threads(), "prompt": prompt}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(name)) for name in folders}
        found: dict[str, Timings] = {}
        for name, worker in workers.items():  # one after the other: the disk and the memory bus are shared
            ready = worker.ask({**task, "folder": str(folders[name])})
            found[name] = Timings(str(device), dtype, int(task["threads"]), **ready)  # type: ignore[call-overload]
        for turn in range(turns + 1):
            for name, worker in workers.items():
                answer = worker.ask({"generate": generated, "seconds": seconds})
                found[name].peak_bytes = answer["peak_bytes"]
                found[name].device_bytes = answer["device_bytes"]
                if turn:
                    found[name].first_token_seconds.append(answer["first_token_seconds"])
                    found[name].tokens_per_second.append(answer["tokens_per_second"])
            run.hook.kdtool_progress(run, turn)
    return found


class _Worker:
    """A process of `_worker`; a context that ends it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kdtool_evaluator_efficiency._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        deadline = Timer(_DEADLINE_SECONDS, self._process.kill)
        deadline.daemon = True
        deadline.start()
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = b""
        finally:
            deadline.cancel()
        if not line:
            raise kdtool.PluginError(f"the process that measures {self._name} ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", errors="replace").strip().splitlines()
        return f"exit status {code}, {lines[-1] if lines else 'no message'} (enough memory for all subjects at once?)"
