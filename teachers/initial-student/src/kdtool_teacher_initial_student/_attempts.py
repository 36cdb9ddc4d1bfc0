"""The student's programs in a batch, and their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import kdtool
from kdtool_programs import ProblemWithTests, Sandbox, Task, Verdict, problem_with_tests
from kdtool_torch import NO_LABEL

__all__ = ["Attempt", "Judge", "attempts_in", "problems_by_prompt"]

_STUDENT_GENERATED = "student_generated"
"""The column of tokens that the student wrote, as the trainer `standard` names it."""


@dataclass(frozen=True)
class Attempt:
    """A document of a batch with its tokens, of which those at `learned` are labelled.

    `written` is the text that the student wrote after `prompt`; both are "" where it wrote nothing.
    """

    ids: Sequence[int]
    learned: frozenset[int]
    prompt: str
    written: str


def attempts_in(batch: kdtool.Batch, tokenizer: kdtool.Tokenizer) -> Iterator[Attempt]:
    """Yield the documents of a batch that have labels, in the order of rows.

    Raises:
        UsageError: the student writes no text in this phase.
    """
    if _STUDENT_GENERATED not in batch.columns:
        raise kdtool.UsageError(
            "feedback: it judges programs of the student, but the student writes none in this phase; expected on-policy "
            "training; set `trainer: {use: standard, on_policy: {fraction: 1}}`"
        )
    columns = (batch.input_ids, batch.labels, batch.document, batch.columns[_STUDENT_GENERATED])
    for ids, labels, documents, generated in zip(*(each.tolist() for each in columns), strict=True):
        start = 0
        for number, positions in groupby(documents):
            end = start + len(list(positions))
            learned = [at for at in range(start, end) if labels[at] != NO_LABEL]
            if number >= 0 and learned:
                sampled = [at for at in learned if generated[at]]
                prompt = tokenizer.decode(ids[start : sampled[0] + 1]) if sampled else ""
                written = tokenizer.decode([labels[at] for at in sampled])
                yield Attempt(ids[start:end], frozenset(at + 1 - start for at in learned), prompt, written)
            start = end


def problems_by_prompt(examples: Iterator[kdtool.Example]) -> Mapping[str, ProblemWithTests]:
    """Return the examples that have tests, by prompt."""
    with_tests = (each for each in examples if "tests" in each.meta and isinstance(each.body, kdtool.Completion))
    found = (problem_with_tests(example, "feedback") for example in with_tests)
    return {each.prompt: each for each in found}


class Judge:
    """Runs programs under the tests of their prompts, equal ones once. The sandbox starts with the first program."""

    def __init__(self, problems: Mapping[str, ProblemWithTests], seconds: float, workers: int) -> None:
        self._problems, self._seconds, self._workers = problems, seconds, workers
        self._known: dict[tuple[str, str], Verdict] = {}
        self._sandbox: Sandbox | None = None

    def judge(self, attempts: Sequence[Attempt]) -> list[Verdict | None]:
        """Return the verdict on each attempt; None if its prompt has no tests.

        Raises:
            SandboxError: programs cannot be run safely here.
        """
        keys = [(each.prompt, each.written) if each.prompt in self._problems else None for each in attempts]
        missing = [key for key in dict.fromkeys(keys) if key is not None and key not in self._known]
        tasks = [
            Task(str(number), self._problems[prompt].module(written), self._seconds)
            for number, (prompt, written) in enumerate(missing)
        ]
        if tasks:
            if self._sandbox is None:
                self._sandbox = Sandbox(workers=self._workers).__enter__()
            for verdict in self._sandbox.run(tasks):
                self._known[missing[int(verdict.id)]] = verdict
        return [None if key is None else self._known[key] for key in keys]

    def close(self) -> None:
        """End the sandbox. Safe to call twice."""
        if self._sandbox is not None:
            self._sandbox.__exit__(None, None, None)
            self._sandbox = None
