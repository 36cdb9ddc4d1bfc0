"""Samples of programs: the settings that ask for them, a subject's answers, and the sandbox's verdicts on these.

Equal programs are run once. Answers and verdicts are stored as they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Literal

import kdtool
from kdtool_measuring import Answer, collect_answers, fit_prompt, journal, seed_of
from pydantic import model_validator

from kdtool_programs.extraction import code_of
from kdtool_programs.languages import language
from kdtool_programs.problems import Limits, Problem
from kdtool_programs.sandbox import Sandbox
from kdtool_programs.tasks import Module, Program, Task, processors, slowness
from kdtool_programs.view import Package

_MOST_WORKERS = 16


class PassAtKConfig(kdtool.Config):
    """Settings of an evaluator that runs programs."""

    form: Literal["base", "chat"] = "base"
    """`base` has the model continue a program; `chat` uses its chat template, for models tuned to it."""
    samples: int = kdtool.Field(default=1, ge=1, le=10_000)
    """Answers per problem. pass@k is estimated for k of 1, 10, 100 and `samples`, as far as they suffice."""
    temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
    """Sampling temperature; 0 decodes greedily. Several samples need a temperature above 0."""
    maximum_tokens: int = kdtool.Field(default=512, ge=1, le=100_000)
    """Maximum tokens per answer."""
    limit: int | None = kdtool.Field(default=None, ge=1)
    """Maximum number of problems per measurement, selected by the hashes of their ids; null uses all, as published
    scores do."""
    seconds: float | None = kdtool.Field(default=None, gt=0, le=600)
    """Time limit per program, which fails if it exceeds it; null uses that of the benchmark's own harness."""
    packages: tuple[str, ...] | None = None
    """Installed packages that programs in Python may import, such as [numpy]; null shows those of the benchmark's own
    harness that are installed."""

    @model_validator(mode="after")
    def _can_be_estimated(self) -> PassAtKConfig:
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                "several samples at temperature 0 are identical; set temperature, for example to 0.2 or 0.8"
            )
        return self

    @property
    def k(self) -> list[int]:
        """Values of k that pass@k is estimated for."""
        return sorted({k for k in (1, 10, 100) if k < self.samples} | {self.samples})


@dataclass(frozen=True)
class Sample(Answer):
    """An answer to a problem. If it does not continue the form's prompt, a server began a separate turn."""

    problem: str


def collect_samples(
    run: kdtool.RunInfo, subject: kdtool.Subject, problems: Sequence[Problem], config: PassAtKConfig, benchmark: str
) -> list[Sample] | None:
    """Return all samples of a subject, in the order of problems; None, with a message to the user, if it cannot answer."""
    wanted = {f"{problem.id}#{number}": problem for problem in problems for number in range(config.samples)}

    def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
        return _request(name, wanted[name], config, runtime)

    def unfit(runtime: kdtool.Runtime) -> str:
        model = runtime.model
        if config.form == "chat" and model is not None and not model.tokenizer.chat_fingerprint:
            return "its tokenizer has no chat template (form: base asks without one)"
        return ""

    answers = collect_answers(run, subject, list(wanted), request, evaluator=benchmark, unfit=unfit)
    return None if answers is None else [Sample(**asdict(answer), problem=wanted[answer.id].id) for answer in answers]


def _request(name: str, problem: Problem, config: PassAtKConfig, runtime: kdtool.Runtime) -> kdtool.Request:
    """Make a request.

    A bare prompt that is too long for the model is cut at its beginning, as lm-evaluation-harness does. A conversation is
    never cut.
    """
    form = problem.forms[config.form]
    continues = config.form == "base" or "prefill" in runtime.abilities
    behind = form.suffix or ""
    prompt = form.prompt if form.turns else fit_prompt(form.prompt, runtime, config.maximum_tokens, behind)
    return kdtool.Request(
        id=name,
        prompt=prompt if continues else "",
        max_tokens=config.maximum_tokens,
        stop=form.stop if continues else (),
        temperature=config.temperature,
        seed=seed_of(0, name),
        turns=form.turns,
        suffix=form.suffix,
    )


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
    packages: Sequence[Package],
) -> Mapping[str, Judged]:
    """Return the verdict of every sample, by its id; `file`, `packages` and errors as in `verdicts_of`."""
    by_id = {problem.id: problem for problem in problems}
    tasks: dict[str, list[Task]] = {}
    for sample in samples:
        problem = by_id[sample.problem]
        task = Task(sample.id, program_of(problem, sample), limits.seconds, limits.memory)
        tasks.setdefault(problem.language, []).append(task)
    return verdicts_of(run, file, tasks, packages)


def verdicts_of(
    run: kdtool.RunInfo,
    file: Path,
    tasks: Mapping[str, Sequence[Task]],
    packages: Sequence[Package] = (),
    workers: int | None = None,
) -> Mapping[str, Judged]:
    """Return the verdict of every task by its id, running equal programs once and those in the file not at all.

    A stored verdict is ignored if the task's program or the packages have changed, since its sample was requested again.

    Args:
        run: the run, for messages.
        file: journal of the verdicts.
        tasks: by the sandbox's name for their language; ids are unique.
        packages: installed ones that programs in Python may import.
        workers: programs run in parallel; by default one on each processor, at most 16.

    Raises:
        SandboxError: programs cannot be run safely here, or a language's toolchain is missing.
        PluginError: the sandbox does not support a language.
    """
    every = chain.from_iterable(tasks.values())
    hashes = ((task.id, sha256(repr((task.work, packages)).encode("utf-8", "surrogatepass"))) for task in every)
    programs = {name: program.hexdigest() for name, program in hashes}
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
            with Sandbox(
                workers=workers or min(processors(), _MOST_WORKERS), languages=languages, packages=packages
            ) as sandbox:
                for verdict in sandbox.run(same[0] for same in first.values()):
                    about = verdict.status, verdict.isolation, verdict.reason, verdict.stderr
                    for task in first[verdict.id]:
                        kept.add(Judged(task.id, *about, programs[task.id]))
        return {name: kept[name] for name in programs}


def program_of(problem: Problem, sample: Sample) -> Module | Program:
    """Return the program of a sample. A continuation of a prompt is code as it is, since stop strings end it."""
    if sample.continues:
        return problem.continued(sample.text)
    names = getattr(problem.whole(""), "names", ())
    return problem.whole(code_of(sample.text, continues=False, names=names))
