"""The evaluator `contamination` and the filter `decontamination`: problems of benchmarks in the training text.

The evaluator measures the share of the problems that the text contains. It opens no model: all subjects trained on the text
get the same number. The filter removes text that contains a problem.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_evaluator_overlap._benchmarks import Benchmark, Benchmarks, Match

_SHOWN = 5
_TOGETHER = 100
"""Documents that are searched between two reports of progress."""


class _NGrams(kdtool.Config):
    """Settings of both components."""

    n: int = kdtool.Field(default=10, ge=3, le=100)
    """Words per n-gram: names, keywords and numbers, ignoring punctuation. DeepSeek-Coder's filter uses 10
    (arXiv 2401.14196), GPT-3's 13, PaLM's 8."""


class Contamination(kdtool.Evaluator):
    """Measures how many of each benchmark's problems share an n-gram of words, or renamed code, with the training text.

    N-grams of more than two problems of a benchmark do not count, nor do lists and repetitions. Code is found under other
    names, in another format and without its comments. Reported for student, controls and exported files, but not for
    teachers, which were trained on other text.
    """

    measurements = ("contamination.*",)
    needs_hook = "kdtool_problems"
    measures_jointly = True

    class Config(_NGrams):
        """Settings of `contamination`."""

    config: Config

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the evaluators' problems.

        Raises:
            kdtool.UsageError: no evaluator publishes any.
        """
        from kdtool_evaluator_overlap._benchmarks import digest_of, problems_of

        return {"problems": digest_of(problems_of(run, "contamination"))}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a recipe without training text, or without problems that can be found.

        Raises:
            kdtool.UsageError: there is no training text, or no problem can be found in it.
        """
        if when == "text":
            self._benchmarks(run)

    def _benchmarks(self, run: kdtool.RunInfo) -> Benchmarks:
        from kdtool_evaluator_overlap._benchmarks import Benchmarks, problems_of

        benchmarks = Benchmarks(problems_of(run, "contamination"), self.config.n)
        for benchmark in benchmarks.each:
            if len(benchmark.hidden) == len(benchmark.problems):  # a share of 0 would look like clean text
                raise kdtool.UsageError(
                    f"contamination.n: no problem of {benchmark.name} has {self.config.n} distinctive words in a row; lower "
                    "`n`"
                )
        if next(iter(run.texts.examples("train")), None) is None:
            raise kdtool.UsageError(
                "contamination: the split 'train' holds no documents, so there is nothing to search; add a corpus to the "
                "recipe, or remove contamination"
            )
        return benchmarks

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `contamination.<benchmark>` of each trained subject, and write which documents contain which problem.

        Raises:
            kdtool.UsageError: there is no training text, or no problem can be found in it.
        """
        from kdtool_evaluator_overlap._benchmarks import digest_of

        learned = [subject for subject in subjects if subject.role not in ("teacher", "reference", "base")]
        if learned and all(subject.role == "artifact" for subject in learned):  # no file is an export of this run
            names = ", ".join(subject.name for subject in learned)
            run.say(
                f"contamination: {names} is left out, since it was not trained here and its training text is unknown"
            )
            return
        benchmarks = self._benchmarks(run)
        results = {benchmark.name: _Found(benchmark) for benchmark in benchmarks.each}
        documents = _search(run, benchmarks, results)
        for result in results.values():
            result.report(run, documents)
            settings = {
                "n-grams": f"{self.config.n} words that at most two problems have, without lists and repetitions",
                "code": "also under other names, formatted otherwise and without comments",
                "text": "all documents of the recipe's split train",
                "problems": digest_of({result.benchmark.name: result.benchmark.problems})[:12],
            }
            for subject in learned:
                yield result.measurement(subject, settings)


@dataclass
class _Found:
    """Matches of one benchmark: by problem, the documents, and the words or renamed code that they share with it."""

    benchmark: Benchmark
    documents: dict[str, list[str]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def report(self, run: kdtool.RunInfo, documents: int) -> None:
        """Report the matches to the user, and write their words and documents to a file."""
        name, problems = self.benchmark.name, self.benchmark.problems
        holding = len({document for each in self.documents.values() for document in each})
        first = ", ".join([*self.documents][:_SHOWN]) + (", …" if len(self.documents) > _SHOWN else "")
        run.say(
            f"contamination: {len(self.documents)} of {len(problems)} problems of {name} found in the training text, by "
            f"words or code, in {holding:,} of {documents:,} documents{f': {first}' if first else ''}"
        )
        if hidden := len(self.benchmark.hidden):
            run.say(f"contamination: {hidden} of {len(problems)} problems of {name} without a distinctive n-gram")
        lines = (
            json.dumps({"problem": problem, "words": self.words[problem], "documents": each}) + "\n"
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


def _search(run: kdtool.RunInfo, benchmarks: Benchmarks, results: Mapping[str, _Found]) -> int:
    """Search every document of the training text, and return the number of documents."""
    from kdtool_evaluator_overlap._ngrams import whole_text_of

    number, examples = 0, iter(run.texts.examples("train"))
    while group := list(islice(examples, _TOGETHER)):
        for example, matches in zip(group, benchmarks.found_in([*map(whole_text_of, group)]), strict=True):
            for match in matches:
                result = results[match.benchmark]
                result.documents.setdefault(match.problem, []).append(example.id)
                result.words.setdefault(match.problem, match.words)
        number += len(group)
        run.hook.kdtool_progress(run, number, None)
    return number


class Decontamination(kdtool.Filter):
    """Rejects examples that share an n-gram of words, or renamed code, with a problem of one of the recipe's evaluators.

    N-grams of more than two problems of a benchmark do not count, nor do lists and repetitions. Code is found under other
    names, in another format and without its comments. Held-out examples are filtered like those of the split "train".
    """

    needs_hook = "kdtool_problems"

    class Config(_NGrams):
        """Settings of `decontamination`."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._benchmarks: Benchmarks | None = None

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Collect the evaluators' problems, and return the SHA-256 of these.

        Raises:
            kdtool.UsageError: no evaluator publishes any.
        """
        from kdtool_evaluator_overlap._benchmarks import digest_of, problems_of

        return {"problems": digest_of(problems_of(run, "decontamination"))}

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the benchmark of the problem that an example contains, or None.

        Raises:
            kdtool.UsageError: no evaluator has problems.
        """
        from kdtool_evaluator_overlap._benchmarks import Benchmarks, problems_of
        from kdtool_evaluator_overlap._ngrams import whole_text_of

        if self._benchmarks is None:
            self._benchmarks = Benchmarks(problems_of(run, "decontamination"), self.config.n)
        return [self._reason(matches) for matches in self._benchmarks.found_in([*map(whole_text_of, examples)])]

    def _reason(self, matches: Sequence[Match]) -> str | None:
        shared = dict.fromkeys(match.benchmark for match in matches if not match.is_renamed)
        if shared:
            return f"{self.config.n} words of {', '.join(shared)}"[:80]
        renamed = dict.fromkeys(match.benchmark for match in matches)
        return f"renamed code of {', '.join(renamed)}"[:80] if renamed else None
