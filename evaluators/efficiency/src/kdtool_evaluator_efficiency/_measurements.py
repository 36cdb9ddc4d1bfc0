"""Measurements of a subject, from its files and turns."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import kdtool

from kdtool_evaluator_efficiency._alone import read_alone
from kdtool_evaluator_efficiency._timed import Answering, Worker
from kdtool_evaluator_efficiency._turns import NoProcessError, OtherWork, Turn, UnmeasurableError

if TYPE_CHECKING:
    from kdtool_evaluator_efficiency._turns import EfficiencyConfig

_WEIGHTS = frozenset({".safetensors", ".gguf", ".bin", ".onnx", ".data", ".pt"})
"""Endings of files with weights; `.data` is for weights that an ONNX graph keeps in a second file, `model.onnx.data`."""


@dataclass(frozen=True)
class Ready:
    """A subject that is ready to generate, and the settings needed to reproduce the figures.

    `program` names the program that runs it, and the number format if it is known.
    """

    timed: Worker | Answering
    settings: Mapping[str, str]
    program: str


def beside_other_work(
    run: kdtool.RunInfo, ready: Mapping[kdtool.Subject, Ready], work: OtherWork
) -> dict[kdtool.Subject, Ready]:
    """Mark what was measured while other processes took the processors, and say so."""
    import torch

    others = work.disturbance(torch.get_num_threads())
    if not others:
        return dict(ready)
    busy = f"other processes took {others:.1f} of {os.cpu_count()} cores: too slow, and not to be compared"
    trains = any(
        subject.role == "student" for subject in ready
    )  # else it is a run of `kdtool eval`: no model by its name
    command = f": kdtool eval {shlex.quote(run.name)} --with efficiency" if trains else ""
    run.say(f"efficiency: the machine was busy, {busy}; measure again when it is idle{command}")
    return {subject: replace(each, settings={**each.settings, "busy": busy}) for subject, each in ready.items()}


def file_size(subject: str, path: Path) -> kdtool.Measurement:
    """Return the size of a file, or of the weights in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in _WEIGHTS]
    settings = {"files": ", ".join(sorted(file.name for file in files))}
    return _single(subject, "file-size", "bytes", sum(file.stat().st_size for file in files), settings)


def measurements(
    run: kdtool.RunInfo, subject: kdtool.Subject, ready: Ready, turns: Sequence[Turn], config: EfficiencyConfig
) -> Iterator[kdtool.Measurement]:
    """Yield what a subject's turns show."""
    name = subject.name
    generated = ready.timed.generated if isinstance(ready.timed, Worker) else config.generated
    once = {
        **ready.settings,
        "prompt": f"{median(timing.prompt for timing in turns):.0f} tokens",
        "generated": f"{generated} tokens one at a time, or as many as {config.seconds:g} s allow",
    }
    settings = {
        **once,
        "bounds": f"least and most of at most {config.turns} turns, subjects in turn; the value is their median",
    }
    first = [timing.first_token_seconds for timing in turns]
    yield _spread(name, "time-to-first-token", "s", first, settings, higher=False)
    read = [timing.prompt / timing.first_token_seconds for timing in turns]
    yield _spread(name, "prefill-speed", "tokens/s", read, settings, higher=True)
    speeds = [timing.tokens_per_second for timing in turns if timing.tokens_per_second is not None]
    if speeds:
        yield _spread(name, "decode-speed", "tokens/s", speeds, settings, higher=True)
    else:
        run.say(f"efficiency: how fast {name} generates is not measured, its answers end too early")
    if isinstance(ready.timed, Worker):
        yield from _of_process(name, ready.timed, once)
    if config.context and (subject.path is not None or isinstance(ready.timed, Worker)):  # servers answer for money
        yield from _resident(run, subject, ready, config.context)


def _of_process(name: str, worker: Worker, settings: Mapping[str, str]) -> Iterator[kdtool.Measurement]:
    yield _single(name, "parameters", "parameters", worker.parameters, {})
    before = {"of which before the model was loaded": f"{worker.bytes_before / 1e6:.0f} MB"}
    yield _single(name, "peak-memory", "bytes", worker.peak_bytes, {**settings, **before})
    if worker.device_bytes:
        yield _single(name, "peak-device-memory", "bytes", worker.device_bytes, settings)


def _resident(run: kdtool.RunInfo, subject: kdtool.Subject, ready: Ready, context: int) -> Iterator[kdtool.Measurement]:
    extra: dict[str, str] = {}
    try:
        try:
            memory = ready.timed.read(context)
        except NoProcessError:  # kdtool itself runs the file
            if subject.path is None:
                raise
            memory, extra = read_alone(subject.path, context), {"held": "the most while it read, in a separate process"}
    except UnmeasurableError as error:
        run.say(f"efficiency: the resident memory of {subject.name} is not measured: {error}")
        return
    settings = {
        "context": f"{memory.context} tokens",
        "read": f"{memory.tokens} tokens, their states (KV cache) included",
        **extra,
        "program": ready.program,
    }
    yield _single(subject.name, "resident-memory", "bytes", memory.size, settings)


def _single(subject: str, name: str, unit: str, value: float, settings: Mapping[str, str]) -> kdtool.Measurement:
    return kdtool.Measurement(name, subject, unit, value, 1, higher_is_better=False, settings=settings)


def _spread(
    subject: str, name: str, unit: str, values: Sequence[float], settings: Mapping[str, str], *, higher: bool
) -> kdtool.Measurement:
    return kdtool.Measurement(
        name=name,
        subject=subject,
        unit=unit,
        value=median(values),
        n=len(values),
        higher_is_better=higher,
        low=min(values),
        high=max(values),
        settings=settings,
    )
