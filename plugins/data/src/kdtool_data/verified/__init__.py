"""The corpus `verified`: a teacher's programs that pass the tests of their problems, as training text.

Each answer and each verdict is on disk before the next one counts, so a resumed run repeats none.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_data.verified.settings import VerifiedConfig

if TYPE_CHECKING:
    from kdtool_measuring import Account
    from kdtool_programs import ProblemWithTests

    from kdtool_data.verified.attempts import Attempt


__all__ = ["Verified"]
FOLDER = "verified"
"""Subfolder for answers and verdicts, in the folder of the text that contains them."""


class Verified(kdtool.Corpus):
    """Answers of a teacher that passed their problem's tests, or pairs of a passed and a failed answer."""

    config: Config

    class Config(VerifiedConfig):
        """Settings of `verified`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.derives_from = dict.fromkeys(sorted({config.ask, config.corpus}), "text")
        self._asked: set[Path] = set()

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the version of the Python that runs the tests."""
        return {"python": platform.python_version()}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report missing requirements of the sandbox."""
        from kdtool_programs import missing

        return missing()

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the examples of all problems in order, after running all answers; other splits pass through unchanged.

        Raises:
            kdtool.UsageError: a training example is not a Python problem with tests, no reference solution passes here,
                the teacher refuses all requests, or no answer is usable.
            kdtool.PluginError: the teacher skips a request.
            kdtool_programs.SandboxError: programs cannot be run safely here.
        """
        from kdtool_measuring import Account

        from kdtool_data.verified.attempts import summarise_attempts

        problems, account = self._problems(run), Account()
        attempts = self._attempts(run, problems, account)
        examples = {name: list(self._make_examples(run, problems[name], tried)) for name, tried in attempts.items()}
        account.rows = sum(map(len, examples.values()))
        run.say(summarise_attempts(self.config, attempts, account.rows))
        every = (attempt for tried in attempts.values() for attempt in tried)
        account.rejected.update(attempt.reason for attempt in every if not attempt.has_passed)
        account.write(self._base(run).with_suffix(".json"))
        for example in self._source(run):
            if example.split == "train":
                yield from examples.get(example.id, ())
            else:
                yield example

    def kdtool_account(self, run: kdtool.RunInfo) -> Mapping[str, Any] | None:
        from kdtool_measuring import Account

        return Account.read(self._base(run).with_suffix(".json"))

    def _base(self, run: kdtool.RunInfo) -> Path:
        """Return the path that this corpus's file names begin with: several corpora of this kind share the folder."""
        settings = json.dumps(self.config.model_dump(mode="json"), sort_keys=True)
        return run.folder / FOLDER / hashlib.sha256(settings.encode()).hexdigest()[:16]

    def _source(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        return run.component(self.config.corpus, kdtool.Corpus).kdtool_examples(run)

    def _problems(self, run: kdtool.RunInfo) -> Mapping[str, ProblemWithTests]:
        from kdtool_programs import problem_with_tests

        to_learn_from = (example for example in self._source(run) if example.split == "train")
        problems = {
            example.id: problem_with_tests(example, "verified.corpus")
            for example in islice(to_learn_from, self.config.limit)
        }
        if not problems:
            raise kdtool.UsageError(
                f"verified.corpus: {self.config.corpus} contains no problem to learn from: expected examples of the split "
                "'train'; name another corpus"
            )
        return problems

    def _attempts(
        self, run: kdtool.RunInfo, problems: Mapping[str, ProblemWithTests], account: Account
    ) -> Mapping[str, Sequence[Attempt]]:
        """Return all attempts at each problem whose reference solution passes here; nothing is asked or run twice.

        All answers are added to `account`.
        """
        from kdtool_data.verified.attempts import (
            ask_for_answers,
            name_of,
            own_solutions,
            run_attempts,
            summarise_solutions,
        )

        base = self._base(run)
        base.parent.mkdir(parents=True, exist_ok=True)
        verdicts = base.with_suffix(".verdicts.jsonl")
        solutions = own_solutions(run, problems, self.config, verdicts)
        if left_out := summarise_solutions(self.config, solutions):
            run.say(left_out)
        soluble = {key: problem for key, problem in problems.items() if solutions[key].has_passed}
        prompts = {
            name_of(key, number): problem.prompt
            for key, problem in soluble.items()
            for number in range(self.config.samples)
        }
        file = base.with_suffix(".answers.jsonl")
        answers = ask_for_answers(run, self.config, prompts, file, again=file not in self._asked)
        self._asked.add(file)
        for answer in answers.values():  # samples of a prompt differ by their seeds
            account.add(answer, answer.id)
        return run_attempts(run, soluble, answers, self.config, verdicts)

    def _make_examples(
        self, run: kdtool.RunInfo, problem: ProblemWithTests, attempts: Sequence[Attempt]
    ) -> Iterator[kdtool.Example]:
        """Yield training examples from the attempts at a problem."""
        from kdtool_data.verified.attempts import name_of, pairs, passing

        licences = [each.terms.licence for each in run.licences if each.component == self.config.ask]
        about = {"teacher": self.config.ask, **({"teacher_licence": licences[0]} if licences else {})}
        about["passed"] = f"{sum(attempt.has_passed for attempt in attempts)} of {len(attempts)}"
        prompt, name = problem.prompt, problem.example.id
        if self.config.give == "passing":
            for attempt in passing(attempts, self.config.keep):
                body = kdtool.Completion(prompt, attempt.completion)
                yield self._example(problem.example, name_of(name, attempt.number), body, about)
        else:
            for chosen, rejected in pairs(attempts, self.config.keep):
                pair = kdtool.Preference(prompt, chosen.completion, rejected.completion)
                why = {"rejected": rejected.reason}
                key = f"{name_of(name, chosen.number)}>{rejected.number}"
                yield self._example(problem.example, key, pair, {**about, **why})

    def _example(
        self, problem: kdtool.Example, name: str, body: kdtool.Completion, about: Mapping[str, str]
    ) -> kdtool.Example:
        return kdtool.Example(
            id=name,
            body=body,
            language="python",
            licence=problem.licence,
            source=f"verified answers of {self.config.ask}",
            meta={**about, **({"prompt_source": problem.source} if problem.source else {})},
        )
