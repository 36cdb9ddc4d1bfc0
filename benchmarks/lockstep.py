"""Programs that train side by side, one step each in turn, so that a busy machine disturbs all alike.

`run_in_turns` starts each program as a process of its own that stays resident. A program makes a `Stopwatch`, takes its
first step to warm up, and calls `Stopwatch.lap` at the end of every step: it tells the driver what the step took and
waits for its turn. Linux and macOS only (peak memory comes from getrusage).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Stopwatch", "machine", "run_in_turns", "summary", "table"]

_MARK = "@@"
"""Begins a line of a program's output that is meant for the driver."""


class Stopwatch:
    """A program's side: the time of each step, from the driver's word to the step's end."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        self._versions = dict(versions)
        self._start = (time.perf_counter(), time.process_time())

    def lap(self, loss: float | None) -> None:
        """Tell the driver of the step that ended, and wait for the next turn; leave when the driver has gone."""
        import resource

        seconds, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        unit = 1 if sys.platform == "darwin" else 1024
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        answer = {"seconds": seconds, "cpu": cpu, "rss": rss, "versions": self._versions, "loss": loss}
        print(_MARK + json.dumps(answer), flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self._start = (time.perf_counter(), time.process_time())


def run_in_turns(commands: Mapping[str, Sequence[str]], steps: int, logs: Path) -> dict[str, list[dict[str, Any]]]:
    """Start all programs, then let them take `steps` steps each in turn.

    Returns:
        For each program what `Stopwatch.lap` told: first of its start with the first step, then of the steps in turn.
    """
    programs: dict[str, subprocess.Popen[str]] = {}
    try:
        measured: dict[str, list[dict[str, Any]]] = {}
        for name, command in commands.items():
            errors = (logs / f"{name}.log").open("w", encoding="utf-8")
            programs[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            measured[name] = [_answer(logs, name, programs[name])]
            print(f"{name} is ready", file=sys.stderr, flush=True)
        for _ in range(steps):
            for name, program in programs.items():
                assert program.stdin
                program.stdin.write("go\n")
                program.stdin.flush()
                measured[name].append(_answer(logs, name, program))
                print(name, measured[name][-1], file=sys.stderr, flush=True)
    finally:
        for program in programs.values():
            program.kill()
            program.wait()
    return measured


def _answer(logs: Path, name: str, program: subprocess.Popen[str]) -> dict[str, Any]:
    assert program.stdout
    for line in program.stdout:
        if line.startswith(_MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return answer
    log = (logs / f"{name}.log").read_text(encoding="utf-8")
    raise SystemExit(f"{name} ended early:\n{log[-4000:]}")


def summary(measured: Mapping[str, Sequence[Mapping[str, Any]]], tokens: int) -> dict[str, dict[str, Any]]:
    """Return each program's figures; `tokens` are those of a step."""
    programs = {}
    for name, (first, *timed) in measured.items():
        seconds = [answer["seconds"] for answer in timed]
        programs[name] = {
            "seconds": seconds,
            "median_seconds": statistics.median(seconds),
            "tokens_per_second": tokens / statistics.median(seconds),
            "cpu_seconds": statistics.median(answer["cpu"] for answer in timed),
            "peak_rss_gb": timed[-1]["rss"] / 1e9,
            "first_loss": first["loss"],
            "versions": first["versions"],
        }
    return programs


def table(programs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of all programs as a table."""
    lines = [
        "| program | s/step, median [min to max] | tokens/s | CPU s/step | peak RSS GB | first loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, of in programs.items():
        loss = "" if of["first_loss"] is None else f"{of['first_loss']:.4f}"
        spread = f"{min(of['seconds']):.2f} to {max(of['seconds']):.2f}"
        lines.append(
            f"| {name} | {of['median_seconds']:.2f} [{spread}] | {of['tokens_per_second']:.0f} "
            f"| {of['cpu_seconds']:.2f} | {of['peak_rss_gb']:.2f} | {loss} |"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the figures depend on, and how busy the machine is."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": os.getloadavg(),
    }
