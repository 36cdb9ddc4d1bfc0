"""The evaluator `contamination`: the share of the benchmarks' problems that the training text contains.

It measures the text and opens no model: all subjects trained on the text get the same number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_overlap._benchmarks import Benchmark

__all__ = ["Contamination"]

_SHOWN = 5


class Contamination(kdtool.Evaluator):
    """Measures the share of each benchmark's problems that share an n-gram of words with the training text.

    N-grams of more than two problems of a benchmark do not count, nor do lists and repetitions. Reported for
    student, controls and exported files, but not for teachers, which were trained on other text.
    """

    measurements = ("contamination.*",)
    measures_jointly = True

    class Config(kdtool.Config):
        """Settings of `contamination`."""

        n: int = kdtool.Field(default=10, ge=3, le=100)
        """Words per n-gram: names, keywords and numbers, ignoring punctuation. DeepSeek-Coder's filter uses 10
        (arXiv 2401.14196), GPT-3's 13, PaLM's 8."""

    config: Config

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the evaluators' problems.

        Raises:
            kdtool.UsageError: no evaluator publishes any.
        """
        from kdtool_overlap._benchmarks import digest_of, problems_of

        return {"problems": digest_of(problems_of(run, "contamination"))}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a recipe without training text, or without problems that can be found.

        Raises:
            kdtool.UsageError: there is no training text, or no problem can be found in it.
        """
        if when == "text":
            self._benchmarks(run)

    def _benchmarks(self, run: kdtool.RunInfo) -> list[_Found]:
        from kdtool_overlap._benchmarks import Benchmark, problems_of

        problems = problems_of(run, "contamination")
        found = [_Found(Benchmark(name, each, self.config.n)) for name, each in problems.items()]
        for one in found:
            one.refuse_unfindable(self.config.n)
        if next(iter(run.texts.examples("train")), None) is None:
            raise kdtool.UsageError(
                "contamination: the split 'train' holds no documents, so there is nothing to search; add a corpus to the "
                "recipe, or remove contamination"
            )
        return found

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `contamination.<benchmark>` of each trained subject, and write which documents contain which problem.

        Raises:
            kdtool.UsageError: there is no training text, or no problem can be found in it.
        """
        from kdtool_overlap._benchmarks import digest_of

        learned = [subject for subject in subjects if subject.role not in ("teacher", "base")]
        if learned and all(subject.role == "artifact" for subject in learned):  # no file is an export of this run
            names = ", ".join(subject.name for subject in learned)
            run.say(
                f"contamination: {names} is left out, since it was not trained here and its training text is unknown"
            )
            return
        found = self._benchmarks(run)
        documents = _search(run, found)
        for one in found:
            one.report(run, documents)
            settings = {
                "n-grams": f"{self.config.n} words that at most two problems have, without lists and repetitions",
                "text": "all documents of the recipe's split train",
                "problems": digest_of({one.benchmark.name: one.benchmark.problems})[:12],
            }
            for subject in learned:
                yield one.measurement(subject, settings)


@dataclass
class _Found:
    """Matches of one benchmark: by problem, the documents, and the n-gram that they share with it."""

    benchmark: Benchmark
    documents: dict[str, list[str]] = field(default_factory=dict)
    grams: dict[str, str] = field(default_factory=dict)

    def refuse_unfindable(self, n: int) -> None:
        """Refuse a benchmark without any problem that can be found: a share of 0 would look like clean text.

        Raises:
            kdtool.UsageError: no problem has a distinctive n-gram.
        """
        if len(self.benchmark.hidden) == len(self.benchmark.problems):
            raise kdtool.UsageError(
                f"contamination.n: no problem of {self.benchmark.name} has {n} distinctive words in a row; lower `n`"
            )

    def look_into(self, document: str, words: list[str]) -> None:
        for problem, gram in self.benchmark.found_in(words).items():
            self.documents.setdefault(problem, []).append(document)
            self.grams.setdefault(problem, gram)

    def report(self, run: kdtool.RunInfo, documents: int) -> None:
        """Report the matches to the user, and write their words and documents to a file."""
        name, problems = self.benchmark.name, self.benchmark.problems
        holding = len({document for each in self.documents.values() for document in each})
        first = ", ".join([*self.documents][:_SHOWN]) + (", …" if len(self.documents) > _SHOWN else "")
        run.say(
            f"contamination: {len(self.documents)} of {len(problems)} problems of {name} share an n-gram with the training "
            f"text, in {holding:,} of {documents:,} documents{f': {first}' if first else ''}"
        )
        if hidden := len(self.benchmark.hidden):
            run.say(f"contamination: {hidden} of {len(problems)} problems of {name} lack a distinctive n-gram")
        lines = (
            json.dumps({"problem": problem, "words": self.grams[problem], "documents": each}) + "\n"
            for problem, each in self.documents.items()
        )
        (run.folder / f"{name}.found.jsonl").write_text("".join(lines), encoding="utf-8")

    def measurement(self, subject: kdtool.Subject, settings: Mapping[str, str]) -> kdtool.Measurement:
        """Return the share of problems found, without items: text shared by all models allows no verdict on them."""
        problems = len(self.benchmark.problems)
        return kdtool.Measurement(
            name=f"contamination.{self.benchmark.name}",
            subject=subject.name,
            unit="fraction",
            value=len(self.documents) / problems,
            n=problems,
            higher_is_better=False,
            settings=settings,
        )


def _search(run: kdtool.RunInfo, found: Sequence[_Found]) -> int:
    """Search every document of the training text, and return the number of documents."""
    from kdtool_overlap._words import words_of_example

    number = 0
    for number, example in enumerate(run.texts.examples("train"), 1):
        words = words_of_example(example)
        for one in found:
            one.look_into(example.id, words)
        if number % 100 == 0:
            run.hook.kdtool_progress(run, number)
    return number
