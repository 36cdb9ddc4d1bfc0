"""The evaluator `contamination`: which problems of the recipe's benchmarks stand in the text that was learned from.

It measures the text and opens no model: all subjects that learned from the text get the same number, and no others do.
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
    """Measures the share of each benchmark's problems of which an n-gram of words stands in the training text.

    N-grams that more than two problems of a benchmark have, or without two different names, do not count. It is told of
    student, controls and exported files, and not of teachers, which learned from other text.
    """

    measures_jointly = True

    class Config(kdtool.Config):
        """How long a copy must be."""

        n: int = kdtool.Field(default=10, ge=3, le=100)
        """Words in an n-gram: names, keywords and numbers, whatever stands between them. DeepSeek-Coder's filter has 10
        (arXiv 2401.14196), GPT-3's 13, PaLM's 8."""

    config: Config

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the evaluators' problems.

        Raises:
            kdtool.UsageError: no evaluator has any.
        """
        from kdtool_overlap._benchmarks import digest_of, problems_of

        return {"problems": digest_of(problems_of(run, "contamination"))}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a recipe without problems that can be found, or without text to find them in.

        Raises:
            kdtool.UsageError: there is no training text, or no problem that could be found in it.
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
                "contamination: the split 'train' holds no documents, so there is nothing in which problems could stand; "
                "give the recipe text, or leave contamination out"
            )
        return found

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `contamination.<benchmark>` of each subject that learned, and write which problems are where.

        Raises:
            kdtool.UsageError: there is no training text, or no problem that could be found in it.
        """
        from kdtool_overlap._benchmarks import digest_of

        learned = [subject for subject in subjects if subject.role != "teacher"]
        if learned and all(subject.role == "artifact" for subject in learned):  # no file is an export of this run
            names = ", ".join(subject.name for subject in learned)
            run.say(
                f"contamination: nothing is measured of {names}: not trained here, so what was learned is not known"
            )
            return
        found = self._benchmarks(run)
        documents = _search(run, found)
        for one in found:
            one.tell(run, documents)
            settings = {
                "n-grams": f"{self.config.n} words that at most two problems have, with two different names",
                "text": "all documents of the recipe's split train",
                "problems": digest_of({one.benchmark.name: one.benchmark.problems})[:12],
            }
            for subject in learned:
                yield one.measured(subject, settings)


@dataclass
class _Found:
    """What was found of a benchmark: by problem, the documents, and the n-gram that they share with it."""

    benchmark: Benchmark
    documents: dict[str, list[str]] = field(default_factory=dict)
    grams: dict[str, str] = field(default_factory=dict)

    def refuse_unfindable(self, n: int) -> None:
        """Refuse a benchmark of which no problem can be found: a share of 0 would look like clean text.

        Raises:
            kdtool.UsageError: it is one.
        """
        if len(self.benchmark.hidden) == len(self.benchmark.problems):
            raise kdtool.UsageError(
                f"contamination.n: no problem of {self.benchmark.name} has {n} words by which it is found; set `n` lower"
            )

    def look_into(self, document: str, words: list[str]) -> None:
        for problem, gram in self.benchmark.found_in(words).items():
            self.documents.setdefault(problem, []).append(document)
            self.grams.setdefault(problem, gram)

    def tell(self, run: kdtool.RunInfo, documents: int) -> None:
        """Say what was found, and write which words of which documents it was."""
        name, problems = self.benchmark.name, self.benchmark.problems
        holding = len({document for each in self.documents.values() for document in each})
        first = ", ".join([*self.documents][:_SHOWN]) + (", …" if len(self.documents) > _SHOWN else "")
        run.say(
            f"contamination: {len(self.documents)} of {len(problems)} problems of {name} share an n-gram with the training "
            f"text, in {holding:,} of {documents:,} documents{f': {first}' if first else ''}"
        )
        if hidden := len(self.benchmark.hidden):
            run.say(f"contamination: {hidden} of {len(problems)} problems of {name} have no n-gram that could be found")
        lines = (
            json.dumps({"problem": problem, "words": self.grams[problem], "documents": each}) + "\n"
            for problem, each in self.documents.items()
        )
        (run.folder / f"{name}.found.jsonl").write_text("".join(lines), encoding="utf-8")

    def measured(self, subject: kdtool.Subject, settings: Mapping[str, str]) -> kdtool.Measurement:
        """Return the share of problems found, without items: no verdict on models is drawn from their common text."""
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
    """Look into every document of the training text, and return how many there are."""
    from kdtool_overlap._words import words_learned

    number = 0
    for number, example in enumerate(run.texts.examples("train"), 1):
        words = words_learned(example)
        for one in found:
            one.look_into(example.id, words)
        if number % 100 == 0:
            run.hook.kdtool_progress(run, number)
    return number
