"""Verdicts: what the sandbox says of each sample. Equal programs of a problem are run once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import file_of, journal

from kdtool_pass_at_k._samples import Sample

if TYPE_CHECKING:
    from kdtool_sandbox import Module, Program

    from kdtool_pass_at_k import PassAtK
    from kdtool_pass_at_k._problem import Problem

__all__ = ["Judged", "judged", "program_of"]

_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Judged:
    """A sample's verdict; `status`, `reason` and `stderr` as in `kdtool_sandbox.Verdict`."""

    id: str
    status: str
    isolation: str
    reason: str = ""
    stderr: str = ""

    @property
    def passed(self) -> bool:
        """Whether it did what the tests ask."""
        return self.status == "passed"


def judged(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    problems: Sequence[Problem],
    samples: Sequence[Sample],
    evaluator: PassAtK,
) -> Mapping[str, Judged]:
    """Return the verdict of every sample, by its id.

    Raises:
        SandboxError: there is no safe way to run programs here, or a language's toolchain is missing.
        PluginError: the sandbox could not judge a program because of the benchmark's own tests.
    """
    from kdtool_sandbox import Sandbox, Task, language

    by_id = {problem.id: problem for problem in problems}
    with journal(file_of(run, evaluator.benchmark, subject, "verdicts")) as kept:
        missing = [sample for sample in samples if sample.id not in kept.records]
        works = {sample.id: program_of(by_id[sample.problem], sample) for sample in missing}
        alike: dict[tuple[str, str], list[str]] = {}
        for sample in missing:
            alike.setdefault((sample.problem, repr(works[sample.id])), []).append(sample.id)
        first = {names[0]: names for names in alike.values()}
        if first:
            spoken = [language(name) for name in sorted({by_id[sample.problem].language for sample in missing})]
            with Sandbox(workers=evaluator.config.workers, languages=spoken) as sandbox:
                tasks = (Task(name, works[name], evaluator.seconds, evaluator.limits.memory) for name in first)
                for verdict in sandbox.run(tasks):
                    for name in first[verdict.id]:
                        found = Judged(name, verdict.status, verdict.isolation, verdict.reason, verdict.stderr)
                        kept.add(asdict(found))
        return {sample.id: Judged(**kept.records[sample.id]) for sample in samples}


def program_of(problem: Problem, sample: Sample) -> Module | Program:
    """Return what is run of an answer: what goes on behind the prompt, up to the end of a fence that was opened there.

    Of an answer that begins for itself it is the code in the first fence, or all of it where there is none.
    """
    if sample.continues:
        return problem.continued(sample.text.partition("\n```")[0])
    fenced = _FENCED.search(sample.text)
    return problem.whole(fenced.group(1) if fenced else sample.text)
