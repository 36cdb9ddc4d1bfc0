"""The benchmarks of a recipe: what its evaluators say their problems are, indexed so that text can be compared with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256

import kdtool

from kdtool_overlap._ngrams import NGramIndex
from kdtool_overlap._words import is_name, words_of

__all__ = ["Benchmark", "digest_of", "problems_of", "telling"]

Problems = Mapping[str, Sequence[kdtool.Example]]
"""Problems by the short name of the evaluator that asks them."""


class Benchmark:
    """One evaluator's problems, each its prompt and reference solution as one text."""

    def __init__(self, name: str, problems: Sequence[kdtool.Example], n: int) -> None:
        self.name = name
        self.problems = problems
        self._words = [words_of("\n".join(kdtool.parts_of(problem.body))) for problem in problems]
        self._places = telling(self._words, n, [problem.id.rpartition("/")[2] for problem in problems])
        self._index = NGramIndex(self._words, n, self._places)

    @property
    def hidden(self) -> list[str]:
        """The ids of problems that cannot be found: they have no n-gram that tells."""
        return [problem.id for problem, places in zip(self.problems, self._places, strict=True) if not places]

    def found_in(self, words: list[str]) -> dict[str, str]:
        """Return the ids of the problems that share an n-gram with a text, each with the first such n-gram."""
        found: dict[str, str] = {}
        for text, start, _ in self._index.occurrences(words):
            found.setdefault(self.problems[text].id, " ".join(self._words[text][start : start + self._index.n]))
        return found


def telling(texts: Sequence[list[str]], n: int, tasks: Sequence[str] | None = None) -> list[list[int]]:
    """Return for each text the first words of the n-grams by which it is known.

    `tasks` says which texts are one task, in several languages; by default each is its own. Left out are n-grams that more
    than two tasks have (imports, the words of an instruction; two problems may be twins), and those without two different
    names (numbers or letters in a row): they stand in text that nobody copied.
    """
    grams = [[tuple(words[first : first + n]) for first in range(len(words) - n + 1)] for words in texts]
    held = {(gram, task) for own, task in zip(grams, tasks or range(len(texts)), strict=True) for gram in own}
    holders = Counter(gram for gram, _ in held)
    return [
        [first for first, gram in enumerate(own) if holders[gram] <= 2 and len({*filter(is_name, gram)}) > 1]
        for own in grams
    ]


def problems_of(run: kdtool.RunInfo, who: str) -> Problems:
    """Ask all evaluators of the run for their problems.

    Args:
        run: its hooks reach the evaluators.
        who: the component that asks, for messages.

    Raises:
        kdtool.UsageError: none has any.
    """
    answers = run.hook.kdtool_problems(run)
    found = {name.rpartition(".")[2]: problems for name, problems in answers.items() if problems}
    if not found:
        raise kdtool.UsageError(
            f"{who}: no evaluator of the recipe says what its problems are, so there is nothing to compare the text with; "
            f"add one that does, such as humaneval or mbpp, or leave {who} out"
        )
    return found


def digest_of(problems: Problems) -> str:
    """Return what tells these problems from others: the SHA-256 of names, ids and texts."""
    plain = {name: [[one.id, *kdtool.parts_of(one.body)] for one in each] for name, each in problems.items()}
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
