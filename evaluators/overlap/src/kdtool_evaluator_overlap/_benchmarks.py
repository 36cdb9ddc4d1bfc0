"""Benchmarks of a recipe: the problems that its evaluators publish, indexed for comparison with text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import kdtool
import numpy as np

from kdtool_evaluator_overlap._ngrams import NGramIndex, is_name
from kdtool_evaluator_overlap._renamed import Documents, RenamedCopies

Problems = Mapping[str, Sequence[kdtool.Example]]
"""Problems by the short name of the evaluator that asks them."""


_CHARACTERS = 100_000
"""Characters that are searched together."""


class Benchmark:
    """One evaluator's problems; the text of each is its prompt and reference solution."""

    def __init__(self, name: str, problems: Sequence[kdtool.Example], n: int) -> None:
        self.name = name
        self.problems = problems
        self.parts = [kdtool.parts_of(problem.body) for problem in problems]
        self.words = [Documents(["\n".join(parts)]).words()[0][:-1] for parts in self.parts]
        self.places = distinctive_ngrams(self.words, n, [problem.id.rpartition("/")[2] for problem in problems])

    @property
    def hidden(self) -> list[str]:
        """The ids of problems without a distinctive n-gram: at most their renamed code can be found."""
        return [problem.id for problem, places in zip(self.problems, self.places, strict=True) if not places]


@dataclass(frozen=True)
class Match:
    """A problem in a text: the words, or the tokens of renamed code, that they share."""

    benchmark: str
    problem: str
    words: str
    is_renamed: bool


class Benchmarks:
    """The benchmarks of a recipe, searched together."""

    def __init__(self, problems: Problems, n: int) -> None:
        self.each = [Benchmark(name, examples, n) for name, examples in problems.items()]
        self._problems = [(benchmark.name, problem.id) for benchmark in self.each for problem in benchmark.problems]
        self._words = [words for benchmark in self.each for words in benchmark.words]
        self._index = NGramIndex(self._words, n, [places for benchmark in self.each for places in benchmark.places])
        self._renamed = RenamedCopies([parts for benchmark in self.each for parts in benchmark.parts])

    def found_in(self, texts: Sequence[str]) -> list[list[Match]]:
        """Return the problems in each text, with the first n-gram that it shares with each, or its copy of the code."""
        return [matches for group in _together(texts) for matches in self._found_in(group)]

    def _found_in(self, texts: Sequence[str]) -> list[list[Match]]:
        matches: list[dict[int, Match]] = [{} for _ in texts]
        documents = Documents(texts)
        words, ends = documents.words()
        for number, start, position in self._index.occurrences(words):
            gram = " ".join(self._words[number][start : start + self._index.n])
            match = Match(*self._problems[number], gram, is_renamed=False)
            matches[np.searchsorted(ends, position, "right")].setdefault(number, match)
        for document, number, code in self._renamed.found_in(documents):
            matches[document].setdefault(number, Match(*self._problems[number], code, is_renamed=True))
        return [list(by_problem.values()) for by_problem in matches]


def _together(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group texts that are searched together, by their length: that is several times as fast for short ones."""
    group, characters = list[str](), 0
    for text in texts:
        if group and characters + len(text) > _CHARACTERS:
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group


def distinctive_ngrams(texts: Sequence[list[str]], n: int, tasks: Sequence[str] | None = None) -> list[list[int]]:
    """Return, for each text, the positions of its distinctive n-grams.

    Texts with equal `tasks` are one task in several languages; by default each text is its own. N-grams shared by more than
    two tasks are not distinctive (imports, instructions; two problems may be twins), nor are those without two different
    names (numbers or letters in a row), those with half of the words numbers (lists that count), and those with at most
    three quarters different words (loops, imports, lines that repeat): they occur in text that was not copied.
    """
    grams = [[tuple(words[first : first + n]) for first in range(len(words) - n + 1)] for words in texts]
    held = {
        (gram, task) for text_grams, task in zip(grams, tasks or range(len(texts)), strict=True) for gram in text_grams
    }
    holders = Counter(gram for gram, _ in held)
    return [
        [first for first, gram in enumerate(text_grams) if holders[gram] <= 2 and _is_distinctive(gram)]
        for text_grams in grams
    ]


def _is_distinctive(gram: Sequence[str]) -> bool:
    numbers = sum(word[0].isdigit() for word in gram)
    return 2 * numbers < len(gram) and 3 * len(gram) < 4 * len({*gram}) and len({*filter(is_name, gram)}) > 1


def problems_of(run: kdtool.RunInfo, who: str) -> Problems:
    """Return the problems of all evaluators of the run.

    Args:
        run: the run, which provides the evaluators.
        who: the calling component, for messages.

    Raises:
        kdtool.UsageError: no evaluator publishes any.
    """
    answers = run.hook.kdtool_problems(run)
    published = {name.rpartition(".")[2]: problems for name, problems in answers.items() if problems}
    if not published:
        raise kdtool.UsageError(
            f"{who}: no evaluator of the recipe publishes its problems, so there is nothing to compare the text with; add "
            f"one that does, such as humaneval or mbpp, or remove {who}"
        )
    return published


def digest_of(problems: Problems) -> str:
    """Return the SHA-256 of the problems' evaluators, ids and texts."""
    plain = {
        name: [[problem.id, *kdtool.parts_of(problem.body)] for problem in examples]
        for name, examples in problems.items()
    }
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
