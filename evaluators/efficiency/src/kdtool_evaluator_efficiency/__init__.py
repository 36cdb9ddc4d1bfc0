"""The evaluator `efficiency`: what a model costs its user in size, time and memory.

The engine calls it once with all subjects. This module chooses whom to measure and turns timings into measurements;
`_workers` keeps one process a subject and asks them in turns; `_worker` is what runs in such a process.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_evaluator_efficiency._workers import Timings

__all__ = ["Efficiency"]

_PROCESS_BYTES = 400_000_000
"""What a process takes that imported torch and transformers."""
_WEIGHTS = frozenset({".safetensors", ".gguf", ".bin", ".onnx", ".pt"})


class Efficiency(kdtool.Evaluator):
    """Measures parameters, file size, time to the first token, decoding speed and peak memory, subjects in turns."""

    class Config(kdtool.Config):
        """How much is timed."""

        turns: int = kdtool.Field(default=5, ge=1, le=1000)
        """How often each subject is timed; the median is reported, least and most as its bounds."""
        prompt: int = kdtool.Field(default=128, ge=1, le=100_000)
        """Tokens of the prompt."""
        generated: int = kdtool.Field(default=32, ge=2, le=100_000)
        """Tokens generated after the prompt, one at a time, greedily."""
        seconds: float = kdtool.Field(default=2.0, gt=0, le=3600)
        """A turn stops generating after so long, even if fewer tokens were generated."""

    config: Config
    together = True

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.Prospect) -> Iterator[kdtool.Estimate]:
        measured = [facts for name, facts in ahead.models.items() if name in (ahead.student, *ahead.teachers)]
        size = sum(_PROCESS_BYTES + 4 * facts.parameters for facts in measured)
        note = "one for each subject, in float32 where that is as fast"
        yield kdtool.Estimate("processes that measure", ("scores: efficiency",), size, uses=ahead.teachers, note=note)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield the measurements of the teacher, of one seed of the student, and of one of each artefact.

        Controls are left out: they have the student's shape.
        """
        from kdtool_evaluator_efficiency._workers import measure_in_turns

        with ExitStack() as stack:
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="kdtool-efficiency-")))
            paths = {subject: _path(run, subject, scratch) for subject in _representatives(subjects)}
            files = {subject: path for subject, path in paths.items() if path is not None}
            for subject, path in files.items():
                yield _file_size(subject, path)
            folders = {subject.name: path for subject, path in files.items() if (path / "config.json").is_file()}
            for subject in files.keys() - {subject for subject in files if subject.name in folders}:
                run.say(f"efficiency: of {subject.name} only the size is measured, transformers does not open it")
            if not folders:
                return
            found = measure_in_turns(folders, **self.config.model_dump(), run=run)
            for name, timings in found.items():
                yield from self._measurements(name, timings)

    def _measurements(self, name: str, timings: Timings) -> Iterator[kdtool.Measurement]:
        settings = {
            "machine": f"{timings.device}, {timings.threads} threads",
            "numbers": timings.dtype,
            "prompt": f"{timings.prompt} tokens",
            "generated": f"{self.config.generated} tokens one at a time, or as many as {self.config.seconds:g} s allow",
            "bounds": f"least and most of {self.config.turns} turns, subjects in turn; the value is their median",
        }
        yield _single(name, "parameters", "parameters", timings.parameters, {})
        yield _spread(name, "time-to-first-token", "s", timings.first_token_seconds, settings, higher=False)
        yield _spread(name, "decode-speed", "tokens/s", timings.tokens_per_second, settings, higher=True)
        memory = {**settings, "of which before the model was loaded": f"{timings.bytes_before / 1e6:.0f} MB"}
        del memory["bounds"]
        yield _single(name, "peak-memory", "bytes", timings.peak_bytes, memory)
        if timings.device_bytes:
            yield _single(name, "peak-device-memory", "bytes", timings.device_bytes, settings)


def _representatives(subjects: Sequence[kdtool.Subject]) -> list[kdtool.Subject]:
    """Choose the lowest seed of each kind of subject: seeds have equal shapes. An exported folder stands for the student."""
    paths = [subject.path for subject in subjects if subject.role == "artifact"]
    exported = any(path is not None and path.is_dir() for path in paths)
    chosen: dict[tuple[str, str], kdtool.Subject] = {}
    for subject in sorted(subjects, key=lambda subject: -1 if subject.seed is None else subject.seed):
        shape = subject.name
        if subject.role == "student":
            shape = "student"
        elif subject.seed is not None:
            shape = re.sub(rf"seed{subject.seed}(?!\d)", "", subject.name)
        if subject.role != "control" and not (exported and subject.role == "student"):
            chosen.setdefault((subject.role, shape), subject)
    return sorted(chosen.values(), key=lambda subject: list(subjects).index(subject))


def _path(run: kdtool.RunInfo, subject: kdtool.Subject, scratch: Path) -> Path | None:
    """Return the subject's files; a teacher that has none of its own is saved into `scratch`."""
    if subject.path is not None:
        return subject.path
    opened = kdtool.open_subject(run, subject)
    if opened is None:
        run.say(f"efficiency: {subject.name} is left out, no component opens it")
        return None
    with opened.value as runtime:
        if runtime.model is None:
            run.say(f"efficiency: {subject.name} is left out, {opened.name} has no weights here that could be measured")
            return None
        folder = scratch / re.sub(r"[^\w.-]", "_", subject.name)
        runtime.model.save(folder)
    return folder


def _file_size(subject: kdtool.Subject, path: Path) -> kdtool.Measurement:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in _WEIGHTS]
    settings = {"files": ", ".join(sorted(file.name for file in files))}
    return _single(subject.name, "file-size", "bytes", sum(file.stat().st_size for file in files), settings)


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
