"""Verdicts: what the sandbox says of each sample. Equal programs are run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import journal

from kdtool_pass_at_k._code import code_of
from kdtool_pass_at_k._samples import Sample

if TYPE_CHECKING:
    from kdtool_sandbox import Module, Program, Task

    from kdtool_pass_at_k._problem import Limits, Problem

__all__ = ["Judged", "judged", "program_of", "verdicts_of"]


@dataclass(frozen=True)
class Judged:
    """A sample's verdict; `status`, `reason` and `stderr` as in `kdtool_sandbox.Verdict`, `program` a hash of what ran."""

    id: str
    status: str
    isolation: str
    reason: str = ""
    stderr: str = ""
    program: str = ""

    @property
    def passed(self) -> bool:
        """Whether it did what the tests ask."""
        return self.status == "passed"


def judged(
    run: kdtool.RunInfo,
    file: Path,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    limits: Limits,
    workers: int,
) -> Mapping[str, Judged]:
    """Return the verdict of every sample, by its id; `file`, `workers` and errors as in `verdicts_of`."""
    from kdtool_sandbox import Task

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
    """Return the verdict of every task, by its id; equal programs are run once, and those that are in the file not at all.

    A task whose program is another one than when the verdict was kept is run: its sample was asked for again.

    Args:
        run: says to the user what is damaged in the file.
        file: where each verdict is kept before the next one counts.
        tasks: by the language of their programs, as the sandbox calls it. Their ids are unique.
        workers: programs that run at once.

    Raises:
        SandboxError: there is no safe way to run programs here, or a language's toolchain is missing.
        PluginError: a language is not what the sandbox takes.
    """
    from kdtool_sandbox import Sandbox, language, slowness

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
                run.say(f"time limits are {slowness():g} times as long here: this machine runs Python more slowly")
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
    """Return what is run of a sample. What goes on behind a prompt is code as it is: where it ends, stop strings say."""
    if sample.continues:
        return problem.continued(sample.text)
    names = getattr(problem.whole(""), "names", ())
    return problem.whole(code_of(sample.text, continues=False, names=names))
