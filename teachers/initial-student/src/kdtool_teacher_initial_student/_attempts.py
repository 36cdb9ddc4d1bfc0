"""The student's programs in a batch, their verdicts, and the text that the teacher reads before a prompt.

That text is the error of the student's program, and a program that passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import kdtool
from kdtool_programs import ProblemWithTests, Sandbox, Task, Verdict, problem_with_tests
from kdtool_torch import NO_LABEL

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

    def __init__(self, problems: Mapping[str, ProblemWithTests], seconds: float) -> None:
        self._problems, self._seconds = problems, seconds
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
                self._sandbox = Sandbox(workers=2).__enter__()
            for verdict in self._sandbox.run(tasks):
                self._known[missing[int(verdict.id)]] = verdict
        return [None if key is None else self._known[key] for key in keys]

    def close(self) -> None:
        """End the sandbox. Safe to call twice."""
        if self._sandbox is not None:
            self._sandbox.__exit__(None, None, None)
            self._sandbox = None


def contexts_of(attempts: Sequence[Attempt], verdicts: Sequence[Verdict | None]) -> list[str]:
    """Return the text that comes before each attempt's prompt: "" if it passed, or has no tests."""
    passed: Mapping[str, str] = {
        attempt.prompt: attempt.written
        for attempt, verdict in zip(attempts, verdicts, strict=True)
        if verdict is not None and verdict.has_passed
    }
    return [
        "" if verdict is None or verdict.has_passed else _context_of(verdict, passed.get(attempt.prompt))
        for attempt, verdict in zip(attempts, verdicts, strict=True)
    ]


def _context_of(verdict: Verdict, solution: str | None) -> str:
    parts = ["An earlier attempt failed: " + " ".join((verdict.reason or verdict.status).split())]
    if solution is not None:
        parts += ["This one is correct:", *solution.strip("\n").splitlines()]
    return "".join(f"# {part}\n" for part in parts) + "\n"


def with_contexts(
    attempts: Sequence[Attempt], contexts: Sequence[str], tokenizer: kdtool.Tokenizer, most: int, limit: int
) -> list[kdtool.Row]:
    """Return a row for each attempt with the same labelled tokens, its context after the tokens that begin a document.

    A context has at most `most` tokens, and no more than fit into the model's `limit` (0: none) with the attempt; a longer
    one loses its beginning. Rows are padded to one length.
    """
    start = len(tokenizer.document_start)
    room = [min(most, limit - len(attempt.ids)) if limit else most for attempt in attempts]
    added = [tokenizer.encode(text)[-most:] if most > 0 else [] for text, most in zip(contexts, room, strict=True)]
    length = max(len(attempt.ids) + len(context) for attempt, context in zip(attempts, added, strict=True))
    rows = []
    for number, (attempt, context) in enumerate(zip(attempts, added, strict=True)):
        ids = [*attempt.ids[:start], *context, *attempt.ids[start:]]
        learned = [at - len(context) in attempt.learned for at in range(length)]
        padding = length - len(ids)
        document = [0] * len(ids) + [-1] * padding
        rows.append(kdtool.Row(str(number), ids + [tokenizer.end_of_text] * padding, learned, document))
    return rows
