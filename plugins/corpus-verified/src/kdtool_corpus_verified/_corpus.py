"""The corpus `verified`: asks, has the answers run, and makes examples of those that passed."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool

from kdtool_corpus_verified._config import VerifiedConfig

if TYPE_CHECKING:
    from kdtool_corpus_verified._attempts import Attempt
    from kdtool_corpus_verified._problems import Problem

__all__ = ["Verified"]

FOLDER = "verified"
"""Where answers and verdicts are kept, in the folder of the text that they become part of."""


class Verified(kdtool.Corpus):
    """Answers of a teacher that passed the tests of their problems, or pairs of one that passed and one that failed."""

    config: Config

    class Config(VerifiedConfig):
        """Settings of `verified`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.derives_from = dict.fromkeys(sorted({config.ask, config.corpus}), "text")
        self._asked: set[Path] = set()

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the version of the Python that judges."""
        return {"python": platform.python_version()}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Say why programs cannot be run safely here, if so."""
        from kdtool_sandbox import missing

        return missing()

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield what the problems give, in their order, once all answers were judged; other splits as they are.

        Raises:
            kdtool.UsageError: an example to learn from is no Python problem with tests, no problem's own solution passes
                them here, the teacher refuses everything, or nothing came of all of them.
            kdtool.PluginError: the teacher leaves a request out.
            kdtool.SandboxError: there is no safe way to run programs here.
        """
        from kdtool_corpus_verified._telling import told

        problems = self._problems(run)
        attempts = self._attempts(run, problems)
        given = {name: list(self._given(run, problems[name], found)) for name, found in attempts.items()}
        run.say(told(self.config, attempts, sum(map(len, given.values()))))
        for example in self._source(run):
            if example.split == "train":
                yield from given.get(example.id, ())
            else:
                yield example

    def _source(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        return run.component(self.config.corpus, kdtool.Corpus).kdtool_examples(run)

    def _problems(self, run: kdtool.RunInfo) -> Mapping[str, Problem]:
        from kdtool_corpus_verified._problems import problem_of

        to_learn_from = (example for example in self._source(run) if example.split == "train")
        found = {example.id: problem_of(example) for example in islice(to_learn_from, self.config.limit)}
        if not found:
            raise kdtool.UsageError(f"verified.corpus: {self.config.corpus} gives no problem to learn from")
        return found

    def _attempts(self, run: kdtool.RunInfo, problems: Mapping[str, Problem]) -> Mapping[str, Sequence[Attempt]]:
        """Return all attempts at each problem that its own solution solves here, asked for and judged once."""
        from kdtool_corpus_verified._asking import asked
        from kdtool_corpus_verified._attempts import attempted, name_of, own_solutions
        from kdtool_corpus_verified._telling import told_of_solutions

        settings = json.dumps(self.config.model_dump(mode="json", exclude={"workers"}), sort_keys=True)
        name = hashlib.sha256(settings.encode()).hexdigest()[:16]  # several corpora of this kind share the folder
        folder = run.folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        verdicts = folder / f"{name}.verdicts.jsonl"
        solutions = own_solutions(run, problems, self.config, verdicts)
        if left_out := told_of_solutions(self.config, solutions):
            run.say(left_out)
        soluble = {key: problem for key, problem in problems.items() if solutions[key].passed}
        prompts = {
            name_of(key, number): problem.prompt
            for key, problem in soluble.items()
            for number in range(self.config.samples)
        }
        file = folder / f"{name}.answers.jsonl"
        answers = asked(run, self.config, prompts, file, again=file not in self._asked)
        self._asked.add(file)
        return attempted(run, soluble, answers, self.config, verdicts)

    def _given(self, run: kdtool.RunInfo, problem: Problem, attempts: Sequence[Attempt]) -> Iterator[kdtool.Example]:
        """Yield what is learned from the attempts at a problem."""
        from kdtool_corpus_verified._attempts import name_of, pairs, passing

        about = {**self._about(run), "passed": f"{sum(one.passed for one in attempts)} of {len(attempts)}"}
        prompt, name = problem.prompt, problem.example.id
        if self.config.give == "passing":
            for one in passing(attempts, self.config.keep):
                body = kdtool.Completion(prompt, one.completion)
                yield self._example(problem.example, name_of(name, one.number), body, about)
        else:
            for chosen, rejected in pairs(attempts, self.config.keep):
                pair = kdtool.Preference(prompt, chosen.completion, rejected.completion)
                why = {"rejected": rejected.reason}
                key = f"{name_of(name, chosen.number)}>{rejected.number}"
                yield self._example(problem.example, key, pair, {**about, **why})

    def _about(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return who answered, under which licence where that is known."""
        own = [each.terms.licence for each in run.licences if each.component == self.config.ask]
        return {"teacher": self.config.ask, **({"teacher_licence": own[0]} if own else {})}

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
