"""One process a model, all resident, idle until they are asked; JSON lines over pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import IO, Any

import kdtool
import psutil  # type: ignore[import-untyped]  # it ships no types
import torch
from kdtool_torch import compute_dtype, pick_device

from kdtool_evaluator_efficiency._energy import Meter
from kdtool_evaluator_efficiency._turns import Amount, Resident, Turn

__all__ = ["Place", "Worker", "own_seconds", "place"]

_DEADLINE_SECONDS = 900.0
"""A process that is silent for longer counts as dead."""


@dataclass(frozen=True)
class Place:
    """Device and dtype of all models."""

    device: torch.device
    dtype: str
    threads: int

    @property
    def description(self) -> dict[str, str]:
        """In words."""
        return {"machine": f"{self.device}, {self.threads} threads", "numbers": self.dtype}


def place() -> Place:
    """Return this machine's device, the numbers that are fastest there, and as many threads as this process has."""
    device = pick_device()
    dtype = str(compute_dtype("auto", device)).removeprefix("torch.")
    return Place(device, dtype, torch.get_num_threads())


def own_seconds() -> float:
    """Return the processor time of this process and of all that it started, ended ones included."""
    me, times = psutil.Process(), os.times()
    running = [process.cpu_times() for process in me.children(recursive=True) if process.is_running()]
    return float(sum(times[:4]) + sum(each.user + each.system for each in running))


class Worker:
    """A process of `_worker` with one model, once that is loaded; a context that ends it.

    `generated` are the tokens of a turn, as many as fit into the model's context. `peak_bytes` and `device_bytes` are
    its peak memory as of the last turn.
    """

    generated: int
    parameters: int
    bytes_before: int
    peak_bytes = 0
    device_bytes = 0

    def __init__(self, name: str, meter: Meter | None) -> None:
        self._name = name
        self._meter = meter
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kdtool_evaluator_efficiency._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def load(self, folder: Path, target: Place, amount: Amount) -> None:
        """Load the model.

        Raises:
            PluginError: the process failed; its last words are in the message. So does `turn`.
        """
        where = {"device": str(target.device), "dtype": target.dtype, "threads": target.threads}
        asked = {"prompt": amount.prompt, "generated": amount.generated}
        ready = self._ask({**where, "folder": str(folder), **asked})
        self._prompt, self.generated = ready["prompt"], ready["generated"]
        self.parameters, self.bytes_before = ready["parameters"], ready["bytes_before"]
        self._turn = {"generate": self.generated, "seconds": amount.seconds}

    def turn(self) -> Turn:
        """Generate once."""
        before = self._meter.read() if self._meter else []
        answer = self._ask(self._turn)
        joules = self._meter.since(before) if self._meter else None
        self.peak_bytes, self.device_bytes = answer["peak_bytes"], answer["device_bytes"]
        first, speed = answer["first_token_seconds"], answer["tokens_per_second"]
        return Turn(self._prompt, first, speed, answer["tokens"], joules)

    def read(self, context: int) -> Resident:
        """Read `context` tokens, or as many as fit into the model's context."""
        answer = self._ask({"read": context})
        return Resident(answer["tokens"], answer["tokens"], answer["resident_bytes"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
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
