"""Verdicts of the sandbox on each sample. Equal programs are run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path

import kdtool
from kdtool_asking import journal

from kdtool_programs._code import code_of
from kdtool_programs._language import language
from kdtool_programs._pace import slowness
from kdtool_programs._problem import Limits, Problem
from kdtool_programs._samples import Sample
from kdtool_programs._sandbox import Sandbox
from kdtool_programs._task import Module, Program, Task

__all__ = ["Judged", "judge_samples", "program_of", "verdicts_of"]


@dataclass(frozen=True)
class Judged:
    """A sample's verdict; `status`, `reason` and `stderr` as in `kdtool_programs.Verdict`, `program` the program's hash."""

    id: str
    status: str
    isolation: str
    reason: str = ""
    stderr: str = ""
    program: str = ""

    @property
    def has_passed(self) -> bool:
        """True if the program passed the tests."""
        return self.status == "passed"


def judge_samples(
    run: kdtool.RunInfo,
    file: Path,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    limits: Limits,
    workers: int,
) -> Mapping[str, Judged]:
    """Return the verdict of every sample, by its id; `file`, `workers` and errors as in `verdicts_of`."""
    by_id = {problem.id: problem for problem in problems}
    tasks: dict[str, list[Task]] = {}
    for sample in samples:
        problem = by_id[sample.problem]
        task = Task(sample.id, program_of(problem, sample), limits.seconds, limits.memory)
        tasks.setdefault(problem.language, []).append(task)
    return verdicts_of(run, file, tasks, workers)


def verdicts_of(
    run: kdtool.RunInfo, file: Path, tasks: Mapping[str, Sequence[Task]], workers: int
) -> Mapping[str, Judged]:
    """Return the verdict of every task by its id, running equal programs once and those in the file not at all.

    A stored verdict is ignored if the task's program has changed, since its sample was requested again.

    Args:
        run: the run, for messages.
        file: journal of the verdicts.
        tasks: by the sandbox's name for their language; ids are unique.
        workers: programs run in parallel.

    Raises:
        SandboxError: programs cannot be run safely here, or a language's toolchain is missing.
        PluginError: the sandbox does not support a language.
    """
    programs = {task.id: _digest(task) for task in chain.from_iterable(tasks.values())}
    with journal(file, Judged, run.say) as kept:

        def is_kept(task: Task) -> bool:
            return task.id in kept and kept[task.id].program == programs[task.id]

        missing = {name: [task for task in spoken if not is_kept(task)] for name, spoken in sorted(tasks.items())}
        alike: dict[str, list[Task]] = {}
        for task in chain.from_iterable(missing.values()):
            alike.setdefault(programs[task.id], []).append(task)
        first = {same[0].id: same for same in alike.values()}
        if first:
            if slowness() > 1:
                run.say(f"time limits are multiplied by {slowness():g}: this machine runs Python more slowly")
            languages = [language(name) for name, spoken in missing.items() if spoken]
            with Sandbox(workers=workers, languages=languages) as sandbox:
                for verdict in sandbox.run(same[0] for same in first.values()):
                    about = verdict.status, verdict.isolation, verdict.reason, verdict.stderr
                    for task in first[verdict.id]:
                        kept.add(Judged(task.id, *about, programs[task.id]))
        return {name: kept[name] for name in programs}


def _digest(task: Task) -> str:
    return sha256(repr(task.work).encode("utf-8", "surrogatepass")).hexdigest()


def program_of(problem: Problem, sample: Sample) -> Module | Program:
    """Return the program of a sample. A continuation of a prompt is code as it is, since stop strings end it."""
    if sample.continues:
        return problem.continued(sample.text)
    names = getattr(problem.whole(""), "names", ())
    return problem.whole(code_of(sample.text, continues=False, names=names))
