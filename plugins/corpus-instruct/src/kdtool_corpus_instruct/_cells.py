"""Cells of the quota: language × difficulty × kind of task, and the number of rows in each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

__all__ = [
    "DIFFICULTIES",
    "LANGUAGES",
    "TASKS",
    "WITHOUT_CODE",
    "Cell",
    "Difficulty",
    "Language",
    "quotas",
    "shares_of",
]

Language = Literal["python", "javascript", "java", "cpp", "go", "rust"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
TASKS = ("generate", "complete", "debug", "explain", "document", "test", "translate", "refactor")
"""Kinds of tasks with a template in this package."""
WITHOUT_CODE = frozenset({"explain"})
"""Tasks whose answer needs no block of code, so that there is nothing to test."""
Difficulty = Literal["easy", "medium", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)

Shares = Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """One combination, with its own number of rows."""

    language: str
    difficulty: str
    task: str

    def __str__(self) -> str:
        return f"{self.language}/{self.difficulty}/{self.task}"


def quotas(rows: int, languages: Shares, difficulties: Shares, tasks: Shares) -> dict[Cell, int]:
    """Return the rows of each cell: `rows` in total, by the products of the shares, to the nearest row.

    Shares are rounded down; the remaining rows go to the cells with the largest remainders, and among equals to the first.
    """
    cells = [Cell(*names) for names in product(languages, difficulties, tasks)]
    weights = [languages[cell.language] * difficulties[cell.difficulty] * tasks[cell.task] for cell in cells]
    exact = [rows * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(cells)), key=lambda index: (counts[index] - exact[index], index))
    for index in order[: rows - sum(counts)]:
        counts[index] += 1
    return {cell: count for cell, count in zip(cells, counts, strict=True) if count}


def shares_of(given: Collection[str]) -> Shares:
    """Return shares by name; names in a list have equal shares."""
    return dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
