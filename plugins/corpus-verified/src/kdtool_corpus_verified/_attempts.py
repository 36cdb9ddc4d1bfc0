"""Attempts: the answers to a problem with what came of them when they were run, and which of them are learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import kdtool
from kdtool_pass_at_k import Judged, code_of, verdicts_of

if TYPE_CHECKING:
    from kdtool_corpus_verified._config import VerifiedConfig
    from kdtool_corpus_verified._problems import Problem

__all__ = ["REFUSED", "Attempt", "attempted", "name_of", "own_solutions", "pairs", "passing"]

REFUSED = "refused by the teacher"


@dataclass(frozen=True)
class Attempt:
    """An answer's completion of the prompt. `unfit` says why it was not run; `judged` is what came of it where it was.

    `refusal` is the reason that the teacher gave where it refused.
    """

    number: int
    completion: str
    unfit: str = ""
    judged: Judged | None = None
    refusal: str = ""

    @property
    def passed(self) -> bool:
        """Whether it did what the tests ask."""
        return self.judged is not None and self.judged.passed

    @property
    def failed(self) -> bool:
        """Whether it was seen not to do what the tests ask; of one that the sandbox refused nothing is known."""
        return self.judged is not None and self.judged.status in {"failed", "timed out"}

    @property
    def reason(self) -> str:
        """Why it did not pass, in the words by which attempts are counted: of an exception its class, not its text."""
        if self.judged is None or self.judged.passed:
            return self.unfit
        return self.judged.reason.partition(":")[0].strip() or self.judged.status


def name_of(problem: str, number: int) -> str:
    """Return the id of an attempt, by its problem's and its number from 0."""
    return f"{problem}#{number}"


def own_solutions(
    run: kdtool.RunInfo, problems: Mapping[str, Problem], config: VerifiedConfig, file: Path
) -> Mapping[str, Attempt]:
    """Run each problem's own solution and return what came of it, by the problem's id. Arguments as of `attempted`.

    One that took too long beside others is run once more by itself, and that is not kept: a machine may be busy for a while.

    Raises:
        SandboxError: there is no safe way to run programs here.
    """
    from kdtool_sandbox import Task

    codes = {key: problem.solution for key, problem in problems.items()}
    tasks = {key: Task(f"{key}#solution", problems[key].module(code), config.seconds) for key, code in codes.items()}
    verdicts = dict(verdicts_of(run, file, {"python": list(tasks.values())}, config.workers))
    late = [task for task in tasks.values() if verdicts[task.id].status == "timed out"]
    with TemporaryDirectory() as scratch:
        verdicts.update(verdicts_of(run, Path(scratch) / "again.jsonl", {"python": late}, workers=1))
    return {key: Attempt(0, codes[key], judged=verdicts[task.id]) for key, task in tasks.items()}


def attempted(
    run: kdtool.RunInfo,
    problems: Mapping[str, Problem],
    answers: Mapping[str, kdtool.TextAnswer],
    config: VerifiedConfig,
    file: Path,
) -> Mapping[str, Sequence[Attempt]]:
    """Run the programs of all answers and return the attempts at each problem, in order.

    Args:
        run: shows lines to the user.
        problems: by their ids.
        answers: by the attempts' ids.
        config: how many there are and how they are run.
        file: where verdicts are kept.

    Raises:
        SandboxError: there is no safe way to run programs here.
    """
    from kdtool_sandbox import Task

    names = {
        name_of(key, number): one.module("").names for key, one in problems.items() for number in range(config.samples)
    }
    codes = {name: _completion(answer, config, names[name]) for name, answer in answers.items()}
    reasons = {name: _unfit(answer, codes[name]) for name, answer in answers.items()}
    numbers = range(config.samples)
    tasks = [
        Task(name, problem.module(codes[name]), config.seconds)
        for key, problem in problems.items()
        for name in (name_of(key, number) for number in numbers)
        if not reasons[name]
    ]
    verdicts = verdicts_of(run, file, {"python": tasks}, config.workers)

    def attempt(name: str, number: int) -> Attempt:
        return Attempt(number, codes[name], reasons[name], verdicts.get(name), answers[name].reason)

    return {key: [attempt(name_of(key, number), number) for number in numbers] for key in problems}


def passing(attempts: Sequence[Attempt], most: int) -> list[Attempt]:
    """Return the first attempts that passed, at most so many, no two of the same text."""
    return _distinct(one for one in attempts if one.passed)[:most]


def pairs(attempts: Sequence[Attempt], most: int) -> list[tuple[Attempt, Attempt]]:
    """Return at most so many pairs of an attempt that passed and one that failed; no text is in two pairs."""
    failed = _distinct(one for one in attempts if one.failed)
    return list(zip(passing(attempts, most), failed, strict=False))


def _distinct(attempts: Iterable[Attempt]) -> list[Attempt]:
    first: dict[str, Attempt] = {}
    for attempt in attempts:
        first.setdefault(attempt.completion, attempt)
    return list(first.values())


def _completion(answer: kdtool.TextAnswer, config: VerifiedConfig, names: Sequence[str]) -> str:
    """Return the code of an answer with one line end: what is run is what is learned."""
    return code_of(answer.text, continues=config.form == "base", names=names).rstrip() + "\n"


def _unfit(answer: kdtool.TextAnswer, completion: str) -> str:
    """Say why an answer is not worth running; "" where it is."""
    if answer.finish == "refused":
        return REFUSED
    if answer.finish == "length":
        return "cut off by max_tokens"
    return "" if completion.strip() else "empty"
