"""The evaluator `memorisation`: how much of its training text a model repeats verbatim.

Carlini et al. 2023, Quantifying memorization across neural language models (arXiv 2202.07646): a text is extractable if a
model, given the words before it, continues with it greedily. Words replace tokens here, so that all subjects get the same
prompts, regardless of their tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_measuring import Item

    from kdtool_evaluator_overlap._passages import Passage


class Memorisation(kdtool.Evaluator):
    """Measures how often a subject continues training text verbatim, and the longest copies in what it writes.

    Teachers and controls get the same prompts: a text that a teacher continues as well, without training on it here, can be
    guessed or was learned elsewhere.
    """

    class Config(kdtool.Config):
        """Settings of `memorisation`."""

        limit: int = kdtool.Field(default=200, ge=1, le=1_000_000)
        """Maximum number of passages, selected by the hashes of their positions."""
        prefix: int = kdtool.Field(default=25, ge=1, le=100_000)
        """Words in the prompt: names, keywords and numbers, with the punctuation between them. 25 are about 60 tokens."""
        continuation: int = kdtool.Field(default=25, ge=1, le=100_000)
        """Words that must follow."""
        characters: int | None = kdtool.Field(default=None, ge=1)
        """Take passages only from this number of characters at the beginning of the split "train". Set it if rows use only
        the beginning of the text; null uses all."""
        n: int = kdtool.Field(default=10, ge=2, le=1_000)
        """Minimum length of a copy, in words."""

    config: Config
    measurements = ("memorised", "longest-copy", "memorisation.unanswered")

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_to_answer

        if ahead.student in ahead.models:
            tokens = 4 * (self.config.prefix + self.config.continuation)  # few words of code take more than 4
            size = bytes_to_answer(ahead, tokens)
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse text without a passage.

        Raises:
            kdtool.UsageError: no document is long enough for one.
        """
        if when == "text":
            self._passages(run, 1)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `memorised` and `longest-copy` of each subject; items are documents, since their passages are correlated.

        Raises:
            kdtool.UsageError: no document is long enough for a passage.
        """
        from kdtool_measuring import measure_missing_answers

        from kdtool_evaluator_overlap._passages import continuations_of

        asked = self._passages(run, self.config.limit)
        for subject in subjects:
            answers = continuations_of(run, subject, asked)
            if answers is not None:
                yield from self._measurements(run, subject, asked, {answer.id: answer.text for answer in answers})
                yield from measure_missing_answers("memorisation", subject, answers)

    def _passages(self, run: kdtool.RunInfo, most: int) -> list[Passage]:
        from kdtool_evaluator_overlap._passages import beginning, passages_of

        config = self.config
        documents = beginning(run.texts.examples("train"), config.characters)
        asked = passages_of(documents, most, config.prefix, config.continuation)
        if not asked:
            raise kdtool.UsageError(
                f"memorisation.prefix: no document of the split 'train' has {config.prefix} + {config.continuation} words, "
                "so there is no passage to continue; lower `prefix` and `continuation`, or remove memorisation"
            )
        return asked

    def _measurements(
        self, run: kdtool.RunInfo, subject: kdtool.Subject, asked: Sequence[Passage], answers: Mapping[str, str]
    ) -> Iterator[kdtool.Measurement]:
        from kdtool_measuring import make_measurement

        from kdtool_evaluator_overlap._ngrams import longest_copies, words_of, words_of_example

        verbatim = [float(_repeats(answers[passage.id], passage.continuation)) for passage in asked]
        written = [words_of(answers[passage.id])[: self.config.continuation] for passage in asked]
        lengths = longest_copies(written, map(words_of_example, run.texts.examples("train")), self.config.n)
        settings = self._settings(asked)
        copies = {"copies": f"runs of {self.config.n} words and more that occur in any document of the split train"}
        for name, unit, values, further in (
            ("memorised", "fraction", verbatim, {}),
            ("longest-copy", "words", lengths, copies),
        ):
            yield make_measurement(
                _by_document(asked, values),
                run,
                subject,
                name=name,
                unit=unit,
                higher_is_better=False,
                settings={**settings, **further},
                aside="repetition of training text",
            )

    def _settings(self, asked: Sequence[Passage]) -> dict[str, str]:
        from kdtool_measuring import Document, digest

        config = self.config
        part = "" if config.characters is None else f" of the first {config.characters} characters"
        return {
            "passages": f"{len(asked)} of the split train{part}, chosen by the hashes of their ids",
            "texts": digest([Document(passage.id, passage.prefix + passage.continuation) for passage in asked]),
            "asked": f"{config.prefix} words are given, {config.continuation} are to follow",
            "decoding": "greedy",
        }


def _by_document(asked: Sequence[Passage], values: Sequence[float]) -> list[Item]:
    """Group the passages' values into one item per document: a model that knows one passage knows others, too."""
    from kdtool_measuring import Item

    by_document: dict[str, list[float]] = {}
    for passage, value in zip(asked, values, strict=True):
        by_document.setdefault(passage.document, []).append(value)
    return [Item(document, sum(group), len(group)) for document, group in by_document.items()]


def _repeats(answer: str, continuation: str) -> bool:
    """Return whether an answer begins with the continuation and does not extend its last word."""
    follows = answer[len(continuation) :][:1]
    inside = continuation[-1:].isidentifier() or continuation[-1:].isdigit()
    return answer.startswith(continuation) and not (inside and (follows.isalnum() or follows == "_"))
