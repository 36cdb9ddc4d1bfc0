"""The evaluator `line-completion`: how a model completes the lines of held-out documents.

The engine calls it once per subject. Completions are compared with the documents' own lines; spaces at a line's ends, and
their number between words, do not count as code. `kdtool_measuring` asks for answers, and a killed run asks for each only
once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import nsmallest
from typing import TYPE_CHECKING, Literal

import kdtool

if TYPE_CHECKING:
    from kdtool_measuring import Answer, Document


__all__ = ["LineCompletion", "edit_similarity", "exact_match"]
_LONGEST_DOCUMENT = 1_000_000
"""Largest number of characters of a document; places are chosen among its lines."""


class LineCompletion(kdtool.Evaluator):
    """Measures how often, and how closely, a subject reproduces the lines of held-out documents."""

    class Config(kdtool.Config):
        """The lines to complete, and their prompts."""

        split: Literal["validation", "test"] = "test"
        """The split whose documents are used: `validation` to choose settings, `test` once at the end."""
        limit: int = kdtool.Field(default=64, ge=1, le=1_000_000)
        """Largest number of documents, chosen by the hashes of their ids."""
        places: int = kdtool.Field(default=4, ge=1, le=10_000)
        """Largest number of lines of a document, chosen by the hashes of its id and their numbers."""
        context: int = kdtool.Field(default=2000, ge=1, le=1_000_000)
        """Largest number of characters before a place; fewer if a model's context is shorter."""
        suffix: int = kdtool.Field(default=0, ge=0, le=1_000_000)
        """Largest number of characters after the line, for infilling by the model's FIM tokens, as in an editor. Models
        without them are left out. 0: lines are continued from the text before them."""
        maximum_tokens: int = kdtool.Field(default=64, ge=1, le=10_000)
        """Largest number of tokens of a completion that does not reach the end of its line."""

    config: Config
    measurements = ("line-completion.exact-match", "line-completion.edit-similarity", "line-completion.unanswered")

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_to_answer

        student = ahead.models.get(ahead.student)
        if student is not None:
            tokens = (self.config.context + self.config.suffix) // 2 + self.config.maximum_tokens
            size = bytes_to_answer(ahead, min(tokens, student.context or tokens))
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> None:
        """Refuse a split without lines.

        Raises:
            kdtool.UsageError: no document has a line to complete.
        """
        if when == "text":
            self._places(run)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield `line-completion.exact-match` and `.edit-similarity` of each subject; items are documents.

        Raises:
            kdtool.UsageError: no document has a line to complete.
        """
        from kdtool_measuring import collect_answers, digest, fit_prompt

        config = self.config
        documents, places = self._places(run)
        settings = {**self._settings(places), "documents": digest(documents)}

        def request(name: str, runtime: kdtool.Runtime) -> kdtool.Request:
            after = places[name].after if config.suffix else None
            prompt = fit_prompt(places[name].before, runtime, config.maximum_tokens, after or "")
            return kdtool.Request(name, prompt, config.maximum_tokens, stop=("\n",), suffix=after)

        for subject in subjects:
            answers = collect_answers(run, subject, list(places), request, evaluator="line-completion")
            if answers is not None:
                yield from _measurements(run, subject, places, answers, settings)

    def _places(self, run: kdtool.RunInfo) -> tuple[list[Document], dict[str, Place]]:
        """Return held-out documents, and the places in them where lines are completed, by their ids."""
        from kdtool_measuring import held_out, without_text

        config = self.config
        documents = held_out(run, config.split, most=config.limit, characters=_LONGEST_DOCUMENT)
        places = {
            position.id: position
            for document in documents
            for position in places_of(document, config.places, config.context, config.suffix)
        }
        if not places:
            raise without_text(run, "line-completion", config.split, "no document of several lines")
        return documents, places

    def _settings(self, places: Mapping[str, Place]) -> dict[str, str]:
        after = f"at most {self.config.suffix} characters after the line, infilled"
        return {
            "split": self.config.split,
            "places": f"{len(places)}, at most {self.config.places} per document, each after the first token of a line, "
            "chosen by hashes",
            "context": f"at most {self.config.context} characters, as many as fit into the model's context",
            **({"suffix": after} if self.config.suffix else {}),
            "decoding": f"greedy, to the end of the line, at most {self.config.maximum_tokens} tokens",
        }


def _measurements(
    run: kdtool.RunInfo,
    subject: kdtool.Subject,
    places: Mapping[str, Place],
    answers: Sequence[Answer],
    settings: Mapping[str, str],
) -> Iterator[kdtool.Measurement]:
    """Yield both measures. Lines of one document are alike, so the items compared are whole documents."""
    from kdtool_measuring import Item, make_measurement, measure_missing_answers

    for name, score in (("exact-match", exact_match), ("edit-similarity", edit_similarity)):
        of_documents: dict[str, list[float]] = {}
        for answer in answers:
            position = places[answer.id]
            of_documents.setdefault(position.document, []).append(
                0.0 if answer.missing else score(answer.text, position.rest)
            )
        yield make_measurement(
            [Item(document, sum(scores), len(scores)) for document, scores in of_documents.items()],
            run,
            subject,
            name=f"line-completion.{name}",
            unit="fraction",
            higher_is_better=True,
            settings=settings,
        )
    yield from measure_missing_answers("line-completion", subject, answers)


_FIRST_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])")
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Place:
    """A place: the text `before` it, with its line's first token, the `rest` of that line, and the text `after` that."""

    id: str
    document: str
    before: str
    rest: str
    after: str


def places_of(document: Document, most: int, context: int, suffix: int = 0) -> list[Place]:
    """Return at most `most` places of a document, in its order, each with at most `context` characters before it.

    At most `suffix` characters after the line, from its line break on, are `after` it.

    A place follows the first token of a line (a word, or one punctuation mark). At a line's start anything may follow, and
    a prompt that ends in indentation divides what tokenizers have as one token; after the first token the statement has
    begun, as when an editor is asked to complete it. The rest of the line has a letter or digit, so that a mere closing
    bracket never counts. The first line is left out, as nothing precedes it, and so is the text after the last line
    break: the document may be cut there. The choice follows the hashes of the document's id and the line's number.
    """
    places = list(_places(document, context, suffix))
    kept = set(
        nsmallest(most, (position.id for position in places), key=lambda name: sha256(name.encode("utf-8")).digest())
    )
    return [position for position in places if position.id in kept]


def _places(document: Document, context: int, suffix: int) -> Iterator[Place]:
    start = 0
    for number, line in enumerate(document.text.split("\n")[:-1], 1):
        begun = _FIRST_TOKEN.match(line)
        if number > 1 and begun and _WORD.search(line, begun.end()):
            before = document.text[: start + begun.end()]
            end = start + len(line)
            after = document.text[end : end + suffix]
            yield Place(f"{document.id}:{number}", document.id, _end_of(before, context), line[begun.end() :], after)
        start += len(line) + 1


def _end_of(text: str, most: int) -> str:
    """Return the end of a text, in whole lines if it contains a line break."""
    if len(text) <= most:
        return text
    end = text[-most:]
    _, broken, lines = end.partition("\n")
    return lines if broken else end


def exact_match(completion: str, line: str) -> float:
    """Return 1 if both are the same words and marks between white space, else 0.

    CodeXGLUE's exact match (Lu et al. 2021, arXiv 2102.04664, section 4.4): texts are compared after `.split()`.
    """
    return float(completion.split() == line.split())


def edit_similarity(completion: str, line: str) -> float:
    """Return 2 · LCS / (len + len), from 0 to 1, of two lines without white space at their ends; 1 for two empty ones.

    LCS is the length of their longest common subsequence of characters. This is `fuzz.ratio` of rapidfuzz / 100, the
    normalised similarity by insertions and deletions that CodeXGLUE calls edit similarity.
    """
    from rapidfuzz import fuzz

    return fuzz.ratio(completion.strip(), line.strip()) / 100
