"""Attempts of `verified`: ask the teacher for programs, run them, and select those to train on.

The teacher is asked once per sample. The summary counts the programs that passed, or explains why none is usable for
training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import ask_teacher, kept_answers, refusal_remedy, seed_of
from kdtool_programs import Judged, ProblemWithTests, code_of, verdicts_of

if TYPE_CHECKING:
    from kdtool_data.verified.settings import VerifiedConfig

_STOP = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```")
"""Stop strings of bigcode-evaluation-harness for MBPP (task mbpp), and the end of a block of code."""
_INSTRUCTION = "Write Python code that does what this says. Answer with one block of code that holds all of it.\n\n"


def ask_for_answers(
    run: kdtool.RunInfo, config: VerifiedConfig, prompts: Mapping[str, str], file: Path, *, again: bool
) -> Mapping[str, kdtool.TextAnswer]:
    """Return the answer to each prompt, by the prompts' ids.

    Args:
        run: the run, which reaches the teacher.
        config: the teacher, and the settings of its answers.
        prompts: by id; the id determines the seed for sampling.
        file: journal of the answers.
        again: retry requests that were refused before.

    Raises:
        UsageError: the teacher refuses all requests.
        PluginError: the teacher skips a request.
    """
    with kept_answers(run, file, again=again) as kept:
        missing = [name for name in prompts if name not in kept]
        if missing:
            requests = (_request(name, prompts[name], config, run.seed) for name in missing)
            ask_teacher(run, config.ask, requests, kept, total=len(prompts))
        for name in missing:
            if name not in kept:
                raise kdtool.PluginError(
                    f"{run.hook.owner(config.ask)} returned no answer to {name!r}; kdtool_answer must yield one per request"
                )
        return {name: kept[name] for name in prompts}


def _request(name: str, prompt: str, config: VerifiedConfig, seed: int) -> kdtool.Request:
    chats = config.form == "chat"
    return kdtool.Request(
        id=name,
        prompt="" if chats else prompt,
        max_tokens=config.max_tokens,
        stop=() if chats else _STOP,
        temperature=config.temperature,
        seed=seed_of(seed, name),
        turns=(("user", _INSTRUCTION + prompt),) if chats else (),
    )


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
    verdicts = dict(verdicts_of(run, file, {"python": list(tasks.values())}))
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
    codes = {  # each ends in one newline: exactly this is both run and trained on
        name: code_of(answer.text, continues=config.form == "base", names=names[name]).rstrip() + "\n"
        for name, answer in answers.items()
    }
    reasons = {name: _unfit(answer, codes[name]) for name, answer in answers.items()}
    numbers = range(config.samples)
    tasks = [
        Task(name, problem.module(codes[name]), config.seconds)
        for key, problem in problems.items()
        for name in (name_of(key, number) for number in numbers)
        if not reasons[name]
    ]
    verdicts = verdicts_of(run, file, {"python": tasks})

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


def _unfit(answer: kdtool.TextAnswer, completion: str) -> str:
    """Return why an answer is not worth running; "" if it is."""
    if answer.finish == "refused":
        return REFUSED
    if answer.finish == "length":
        return "cut off by max_tokens"
    return "" if completion.strip() else "empty"


_REASONS = 4
"""Number of reasons listed, the most frequent first."""


def summarise_attempts(config: VerifiedConfig, attempts: Mapping[str, Sequence[Attempt]], examples: int) -> str:
    """Return how many answers passed, and why the others did not.

    Args:
        config: settings of the corpus.
        attempts: by problem.
        examples: number of examples made from them.

    Raises:
        UsageError: `examples` is 0.
    """
    every = [attempt for tried in attempts.values() for attempt in tried]
    passed = sum(attempt.has_passed for attempt in every)
    solved = sum(any(attempt.has_passed for attempt in tried) for tried in attempts.values())
    reasons = _reasons(every)
    share = f"{passed:,} of {len(every):,} answers of {config.ask} passed, to {solved:,} of {len(attempts):,} problems"
    share += f" (others: {reasons})" if reasons else ""
    if examples:
        return f"{share}: {examples:,} {'pairs' if config.give == 'pairs' else 'examples'}"
    if passed:
        raise kdtool.UsageError(
            f"verified.give: {share}; no problem has an answer that passed and one that failed, which a pair needs; raise "
            "samples or temperature"
        )
    raise kdtool.UsageError(f"verified: nothing to learn from: {share}; {_remedy(every)}")


def _remedy(attempts: Sequence[Attempt]) -> str:
    """Return what to do when no answer passed, depending on the most frequent reason."""
    (commonest, _), *_ = Counter(attempt.reason for attempt in attempts).most_common(1)
    if commonest == REFUSED:
        refusal = next((attempt.refusal for attempt in attempts if attempt.refusal), "")
        return (f"the first was refused with: {refusal}; " if refusal else "") + refusal_remedy(refusal)
    return "raise samples or max_tokens, ask a stronger teacher, or set `form: chat` for a chat model"


def summarise_solutions(config: VerifiedConfig, solutions: Mapping[str, Attempt]) -> str:
    """Return how many problems are dropped because their reference solutions fail; "" for none.

    Raises:
        UsageError: all of them fail.
    """
    failed = [solution for solution in solutions.values() if not solution.has_passed]
    if len(failed) == len(solutions):
        raise kdtool.UsageError(
            f"verified.corpus: the reference solutions pass none of the tests of {config.corpus} here "
            f"({_reasons(failed)}); expected tests that need only Python; name another corpus, or raise seconds"
        )
    share = f"dropped {len(failed):,} of {len(solutions):,} problems: the reference solution fails here"
    return f"{share} ({_reasons(failed)})" if failed else ""


def _reasons(attempts: Sequence[Attempt]) -> str:
    counted = Counter(attempt.reason for attempt in attempts if not attempt.has_passed)
    return ", ".join(f"{count:,} {reason}" for reason, count in counted.most_common(_REASONS))
