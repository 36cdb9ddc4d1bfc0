"""Timed models: in a process each, or models that only answer (files that transformers does not open, and servers).

All processes are resident, and idle until they are asked; they read and write JSON lines over pipes.

A model that only answers shows a prompt, its answer and the time between. So a prompt is answered with a single
token, which gives the time to the first one. Decoding time is the difference between a long answer and a single token, both
after a short prompt: reading a long one would take most of the time, and its ups and downs would hide the rest. No two
prompts begin alike: a server that caches prompts would answer sooner.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from time import perf_counter
from typing import IO, Any

import kdtool
import psutil
import torch
from kdtool_torch import compute_dtype, pick_device

from kdtool_evaluator_efficiency._turns import Amount, NoProcessError, Resident, Turn, UnmeasurableError

_SILENT_SECONDS = 900.0
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

    def __init__(self, name: str) -> None:
        self._name = name
        self._errors: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kdtool_evaluator_efficiency._worker"],
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
        answer = self._ask(self._turn)
        self.peak_bytes, self.device_bytes = answer["peak_bytes"], answer["device_bytes"]
        return Turn(self._prompt, answer["first_token_seconds"], answer["tokens_per_second"])

    def read(self, context: int) -> Resident:
        """Read `context` tokens, or as many as fit into the model's context."""
        answer = self._ask({"read": context})
        return Resident(answer["tokens"], answer["tokens"], answer["resident_bytes"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise AssertionError("both are pipes")
        deadline = Timer(_SILENT_SECONDS, self._process.kill)
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


_LINES = 8
"""Lines of the first prompt, used to compute the tokens in a line."""
_SHORT = 2
"""Lines of a short prompt."""
_ROOM = 0.97
"""Part of the context that a long prompt fills at most: lines differ in length, and the answer needs a token."""
_READING_SECONDS = 1.0
"""Least time of reading long prompts, which shows the process that reads them: the system counts in hundredths."""
_BUSY = 0.05
"""Least share of that time for which this process keeps a processor busy; others compete for the processors, too."""


class Answering:
    """An opened subject, asked for one answer at a time.

    Args:
        runtime: continues prompts, or converses.
        amount: numbers of tokens; a prompt has fewer if the model refuses longer ones.

    Raises:
        UnmeasurableError: the runtime does neither, refuses every prompt, or does not report token counts.
    """

    def __init__(self, runtime: kdtool.Runtime, amount: Amount) -> None:
        if not {"continue", "converse"} & runtime.abilities:
            raise UnmeasurableError("the model does not answer prompts")
        self._runtime = runtime
        self._prompts = random.Random(secrets.randbits(64))  # a server may remember the prompts of other runs
        self._lines = _LINES
        self._count = 2
        self._fit_prompt(amount.prompt)
        self._fit_count(amount)

    def turn(self) -> Turn:
        """Have three prompts answered."""
        first, started = self._time_answer(1, self._lines)
        _, short = self._time_answer(1)
        many, long = self._time_answer(self._count)
        # An answer may end by itself. The token that ends it need not be counted, which matters in a short one.
        decoded, seconds = many.tokens_out - 1, long - short
        speed = decoded / seconds if decoded >= self._count / 2 and seconds > 0 else None
        return Turn(first.tokens_in, started, speed)

    def read(self, context: int) -> Resident:
        """Have a prompt answered that fills the context.

        Memory is that of the process with the most processor time among those that this process started.

        Raises:
            NoProcessError: none of them worked.
            UnmeasurableError: every prompt is refused.
        """
        before, start = _processor_seconds(), perf_counter()
        room, tokens = self.fill(context)
        while (seconds := perf_counter() - start) < _READING_SECONDS:
            self.fill(room)
        worked = {process: spent - before.get(process, 0.0) for process, spent in _processor_seconds().items()}
        busiest = max(worked, key=lambda process: worked[process], default=None)
        if busiest is None or worked[busiest] < _BUSY * seconds:
            raise NoProcessError("no separate process reads the model's prompts")
        return Resident(room, tokens, busiest.memory_info().rss)

    def fill(self, context: int) -> tuple[int, int]:
        """Have a prompt answered that fills the context; return the context, or as much as the model has, and its tokens.

        Raises:
            UnmeasurableError: every prompt is refused.
        """
        most = lines = max(1, int(_ROOM * context / self._line_tokens))
        while (answer := self._answer(1, lines)).finish == "refused":
            if lines == 1:
                raise UnmeasurableError("the model refuses every prompt")
            lines = int(lines * _ROOM)
        return context if lines == most else answer.tokens_in, answer.tokens_in

    def _fit_prompt(self, tokens: int) -> None:
        """Find how many lines have about `tokens` tokens."""
        answer = self._shorten_prompt()
        if not answer.tokens_in:
            raise UnmeasurableError("the model does not report how many tokens it reads and writes")
        self._line_tokens = answer.tokens_in / _longer(self._lines)
        self._lines = max(1, round(tokens / self._line_tokens))
        self._shorten_prompt()

    def _shorten_prompt(self) -> kdtool.TextAnswer:
        """Halve the prompt as often as it is refused; what is answered has tokens to spare, as lines differ in length."""
        while True:
            answer = self._answer(1, _longer(self._lines))
            if answer.finish != "refused":
                return answer
            if self._lines == 1:
                raise UnmeasurableError(
                    "the model refuses every prompt" + (f": {answer.reason}" if answer.reason else "")
                )
            self._lines //= 2

    def _fit_count(self, amount: Amount) -> None:
        """Find how many tokens fit into the time, from few ones on: an answer cannot be stopped."""
        _, started = self._time_answer(1)
        while self._count < amount.generated:
            _, lasted = self._time_answer(self._count)
            if lasted - started > amount.seconds / 2:  # twice as many would take longer than allowed
                return
            self._count = min(2 * self._count, amount.generated)

    def _time_answer(self, tokens: int, lines: int = _SHORT) -> tuple[kdtool.TextAnswer, float]:
        start = perf_counter()
        answer = self._answer(tokens, min(lines, self._lines))
        seconds = perf_counter() - start
        if answer.finish == "refused":
            raise UnmeasurableError(
                f"the model refused a prompt, though it answered longer ones before: {answer.reason}"
            )
        return answer, seconds

    def _answer(self, tokens: int, lines: int) -> kdtool.TextAnswer:
        """Have a new prompt answered; if it is refused, `reason` has the explanation, if there is one."""
        rng = self._prompts
        # Models continue such lines; after other random text many end theirs at once.
        text = "".join(f"value_{rng.randrange(100, 1000)} = {rng.randrange(1000, 10_000)}\n" for _ in range(lines))
        request = kdtool.Request(f"efficiency-{rng.getrandbits(32)}", text, tokens)
        if "continue" not in self._runtime.abilities:
            request = kdtool.Request(request.id, "", tokens, turns=(("user", text),))
        try:
            (answer,) = self._runtime.answer([request])
        except kdtool.UsageError as error:
            return kdtool.TextAnswer(request.id, "", "refused", 0, 0, reason=str(error))
        except (kdtool.ServiceError, kdtool.AuthenticationError) as error:
            raise UnmeasurableError(f"the model does not answer: {error}") from error
        return answer


def _processor_seconds() -> dict[psutil.Process, float]:
    """Return the processor time of each process that this one started."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found[process] = sum(process.cpu_times()[:2])
    return found


def _longer(lines: int) -> int:
    return lines + lines // 4
