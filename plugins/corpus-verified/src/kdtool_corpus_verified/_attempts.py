"""Attempts: run the answers to each problem, and select which of them to train on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import kdtool
from kdtool_programs import Judged, ProblemWithTests, code_of, verdicts_of

if TYPE_CHECKING:
    from kdtool_corpus_verified._config import VerifiedConfig

__all__ = ["REFUSED", "Attempt", "name_of", "own_solutions", "pairs", "passing", "run_attempts"]

REFUSED = "refused by the teacher"


@dataclass(frozen=True)
class Attempt:
    """A completion of the prompt, with its verdict `judged`, or with the reason why it was not run in `unfit`.

    `refusal` is the teacher's reason for refusing the request.
    """

    number: int
    completion: str
    unfit: str = ""
    judged: Judged | None = None
    refusal: str = ""

    @property
    def has_passed(self) -> bool:
        """True if the program passed the tests."""
        return self.judged is not None and self.judged.has_passed

    @property
    def has_failed(self) -> bool:
        """True if the program failed the tests; false if the sandbox refused it, which proves nothing."""
        return self.judged is not None and self.judged.status in {"failed", "timed out"}

    @property
    def reason(self) -> str:
        """Category of the failure, for counting: the class of an exception, without its message."""
        if self.judged is None or self.judged.has_passed:
            return self.unfit
        return self.judged.reason.partition(":")[0].strip() or self.judged.status


def name_of(problem: str, number: int) -> str:
    """Return an attempt's id, made of the problem's id and the attempt's number from 0."""
    return f"{problem}#{number}"


def own_solutions(
    run: kdtool.RunInfo, problems: Mapping[str, ProblemWithTests], config: VerifiedConfig, file: Path
) -> Mapping[str, Attempt]:
    """Run each problem's reference solution and return the outcome by problem id. Arguments as of `run_attempts`.

    Solutions that time out are retried one at a time, without storing the second verdict: the machine may have been busy.

    Raises:
        SandboxError: programs cannot be run safely here.
    """
    from kdtool_programs import Task

    codes = {key: problem.solution for key, problem in problems.items()}
    tasks = {key: Task(f"{key}#solution", problems[key].module(code), config.seconds) for key, code in codes.items()}
    verdicts = dict(verdicts_of(run, file, {"python": list(tasks.values())}, config.workers))
    late = [task for task in tasks.values() if verdicts[task.id].status == "timed out"]
    with TemporaryDirectory() as scratch:
        verdicts.update(verdicts_of(run, Path(scratch) / "again.jsonl", {"python": late}, workers=1))
    return {key: Attempt(0, codes[key], judged=verdicts[task.id]) for key, task in tasks.items()}


def run_attempts(
    run: kdtool.RunInfo,
    problems: Mapping[str, ProblemWithTests],
    answers: Mapping[str, kdtool.TextAnswer],
    config: VerifiedConfig,
    file: Path,
) -> Mapping[str, Sequence[Attempt]]:
    """Run the programs of all answers and return the attempts at each problem, in order.

    Args:
        run: the run, for messages.
        problems: by id.
        answers: by attempt id.
        config: number of samples, and how to run them.
        file: journal of the verdicts.

    Raises:
        SandboxError: programs cannot be run safely here.
    """
    from kdtool_programs import Task

    names = {
        name_of(key, number): problem.module("").names
        for key, problem in problems.items()
        for number in range(config.samples)
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
    """Return the first `most` distinct attempts that passed."""
    return _distinct(attempt for attempt in attempts if attempt.has_passed)[:most]


def pairs(attempts: Sequence[Attempt], most: int) -> list[tuple[Attempt, Attempt]]:
    """Return at most `most` pairs of a passed and a failed attempt; no text is in two pairs."""
    failed = _distinct(attempt for attempt in attempts if attempt.has_failed)
    return list(zip(passing(attempts, most), failed, strict=False))


def _distinct(attempts: Iterable[Attempt]) -> list[Attempt]:
    first: dict[str, Attempt] = {}
    for attempt in attempts:
        first.setdefault(attempt.completion, attempt)
    return list(first.values())


def _completion(answer: kdtool.TextAnswer, config: VerifiedConfig, names: Sequence[str]) -> str:
    """Return the code of an answer, ending in one newline: exactly this is both run and trained on."""
    return code_of(answer.text, continues=config.form == "base", names=names).rstrip() + "\n"


def _unfit(answer: kdtool.TextAnswer, completion: str) -> str:
    """Return why an answer is not worth running; "" if it is."""
    if answer.finish == "refused":
        return REFUSED
    if answer.finish == "length":
        return "cut off by max_tokens"
    return "" if completion.strip() else "empty"
