"""The evaluator `efficiency`: chooses whom to measure and has them timed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import kdtool

from kdtool_evaluator_efficiency._turns import EfficiencyConfig

if TYPE_CHECKING:
    from kdtool_evaluator_efficiency._measurements import Ready

_PROCESS_BYTES = 400_000_000
"""Memory of a process that imported torch and transformers."""
_CONTEXT_BYTES = 500_000_000
"""GPU memory that CUDA takes in each process."""


class Efficiency(kdtool.Evaluator):
    """Measures parameters, file size, speed of reading and writing, and memory, subjects in turns."""

    class Config(EfficiencyConfig):
        """Amounts to time."""

    config: Config
    measurements = (
        "file-size",
        "parameters",
        "time-to-first-token",
        "prefill-speed",
        "decode-speed",
        "peak-memory",
        "peak-device-memory",
        "resident-memory",
    )
    reads_text = False
    measures_jointly = True

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_evaluator_efficiency._timed import place

        here = place()
        itemsize, context = 4 if here.dtype == "float32" else 2, self.config.context or 0
        sizes = [
            itemsize * facts.parameters + facts.cache_bytes(itemsize, min(context, facts.context))
            for name, facts in ahead.models.items()
            if name in (ahead.student, *ahead.teachers)
        ]
        host, device = sum(sizes), 0
        if here.device.type == "cuda":  # one after the other passes through main memory
            host, device = max(sizes, default=0), sum(sizes) + _CONTEXT_BYTES * len(sizes)
        yield kdtool.Estimate(
            "processes that measure",
            ("scores",),
            host + _PROCESS_BYTES * len(sizes),
            device,
            unloads=ahead.teachers,
            note=f"one for each subject, in {here.dtype}; the run's own teacher is unloaded meanwhile",
        )

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield the measurements of the teacher, of one seed of the student, and of one of each artefact.

        Controls are left out: they have the student's shape.
        """
        from kdtool_evaluator_efficiency._measurements import beside_other_work, file_size, measurements
        from kdtool_evaluator_efficiency._timed import own_seconds
        from kdtool_evaluator_efficiency._turns import OtherWork, in_turns

        with ExitStack() as stack:
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="kdtool-efficiency-")))
            folders: dict[kdtool.Subject, Path] = {}
            answering: dict[kdtool.Subject, tuple[str, kdtool.Runtime]] = {}
            for subject in _representatives(subjects):
                path, opened = _find_subject(run, subject, scratch)
                if path is not None:
                    yield file_size(subject.name, path)
                if opened is not None:
                    stack.enter_context(opened[1])
                    answering[subject] = opened
                elif path is not None and _has_model(path):
                    folders[subject] = path
            if not folders and not answering:
                return
            ready = self._ready(run, stack, folders, answering)
            work = OtherWork(own_seconds)
            turns = in_turns({subject.name: each.timed.turn for subject, each in ready.items()}, self.config.turns, run)
            ready = beside_other_work(run, ready, work)
            for subject, each in ready.items():
                if subject.name in turns:
                    yield from measurements(run, subject, each, turns[subject.name], self.config)

    def _ready(
        self,
        run: kdtool.RunInfo,
        stack: ExitStack,
        folders: Mapping[kdtool.Subject, Path],
        answering: Mapping[kdtool.Subject, tuple[str, kdtool.Runtime]],
    ) -> dict[kdtool.Subject, Ready]:
        """Make all subjects ready to generate; processes end with the stack."""
        from kdtool_evaluator_efficiency._measurements import Ready
        from kdtool_evaluator_efficiency._timed import Answering, Worker, place
        from kdtool_evaluator_efficiency._turns import Amount, UnmeasurableError

        here = place()
        waiting = {"threads wait": "asleep"} if os.environ.get("OMP_WAIT_POLICY") == "PASSIVE" else {}
        much = Amount(self.config.prompt, self.config.generated, self.config.seconds)
        ready: dict[kdtool.Subject, Ready] = {}
        # All processes start together, but load one after the other: the disk and the memory bus are shared.
        workers = [stack.enter_context(Worker(subject.name)) for subject in folders]
        for (subject, folder), worker in zip(folders.items(), workers, strict=True):
            worker.load(folder, here, much)
            if worker.generated < much.generated:
                run.say(
                    f"efficiency: {subject.name} generates {worker.generated} tokens, and not {much.generated}: its context "
                    "ends there"
                )
            settings = {"timed": "the model's passes, by transformers", **here.description, **waiting}
            ready[subject] = Ready(worker, settings, f"transformers, {here.dtype}")
        for subject, (owner, runtime) in answering.items():
            timed = f"answers of {owner}, one at a time; splitting into tokens and the way there and back included"
            try:
                ready[subject] = Ready(Answering(runtime, much), {"timed": timed}, owner)
            except UnmeasurableError as error:
                run.say(f"efficiency: {subject.name} is not timed: {error}")
        return ready


def _representatives(subjects: Sequence[kdtool.Subject]) -> list[kdtool.Subject]:
    """Choose the lowest seed of each kind of subject; controls and the base have the shape of the student.

    An exported folder that transformers opens is measured instead of the student.
    """
    paths = [subject.path for subject in subjects if subject.role == "artifact"]
    exported = any(path is not None and _has_model(path) for path in paths)
    chosen: dict[tuple[str, str], kdtool.Subject] = {}
    for subject in sorted(subjects, key=lambda subject: -1 if subject.seed is None else subject.seed):
        shape = subject.name
        if subject.role == "student":
            shape = "student"
        elif subject.seed is not None:
            shape = re.sub(rf"seed{subject.seed}(?!\d)", "", subject.name)
        if subject.role not in ("control", "base") and not (exported and subject.role == "student"):
            chosen.setdefault((subject.role, shape), subject)
    return sorted(chosen.values(), key=lambda subject: list(subjects).index(subject))


def _find_subject(
    run: kdtool.RunInfo, subject: kdtool.Subject, scratch: Path
) -> tuple[Path | None, tuple[str, kdtool.Runtime] | None]:
    """Return the subject's files, and the runtime that answers for it if transformers does not open them.

    A teacher without files is saved into `scratch`, if it has weights here.
    """
    path = subject.path
    if path is not None and _has_model(path):
        return path, None
    opened = kdtool.open_subject(run, subject)
    if opened is None:
        left = f"{subject.name} is left out" if path is None else f"of {subject.name} only the size is measured"
        run.say(f"efficiency: {left}, no component opens it; its component must implement kdtool_open")
        return path, None
    owner, runtime = opened
    if owner and getattr(run.component(owner, kdtool.Component), "stores_answers", False):
        runtime.close()
        run.say(f"efficiency: {subject.name} is left out: it returns stored answers, and new ones cost money")
        return path, None
    model = runtime.model
    if path is not None or model is None:
        return path, opened
    folder = scratch / re.sub(r"[^\w.-]", "_", subject.name)
    with runtime:
        model.save(folder)
        runtime.unload()  # its own process has the model from now on
    return folder, None


def _has_model(path: Path) -> bool:
    """Return whether it is a folder that transformers opens."""
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))
