"""Settings of `instruct`, and the quotas that follow from them.

A cell of the quota is a language, a difficulty and a kind of task, with its own number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal, get_args

import kdtool
import pydantic

Language = Literal["python", "javascript", "java", "cpp", "go", "rust"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
Task = Literal["generate", "complete", "debug", "explain", "document", "test", "translate", "refactor"]
TASKS: tuple[Task, ...] = get_args(Task)
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


REPAIR = "_repair"
"""Template of the turn that asks for a repair."""
_Share = Annotated[float, kdtool.Field(gt=0, le=1e6)]
_PICODOLLARS = 10**12


class InstructConfig(kdtool.Config):
    """Settings of `instruct`."""

    ask: str = kdtool.Field(default="teacher", min_length=1)
    """The teacher that writes, by its name in the recipe: `teacher`, or `teachers.NAME`."""
    rows: int = kdtool.Field(ge=1, le=100_000_000)
    """Accepted rows in total, distributed over language × difficulty × task."""
    languages: tuple[Language, ...] | Annotated[dict[Language, _Share], kdtool.Field(min_length=1)] = kdtool.Field(
        default=LANGUAGES, min_length=1
    )
    """Programming languages, with their shares if they are not equal: {python: 3, rust: 1}."""
    difficulties: tuple[Difficulty, ...] | Annotated[dict[Difficulty, _Share], kdtool.Field(min_length=1)] = (
        kdtool.Field(default=DIFFICULTIES, min_length=1)
    )
    """Difficulties, with shares if they are not equal."""
    tasks: tuple[Task, ...] | Annotated[dict[Task, _Share], kdtool.Field(min_length=1)] = kdtool.Field(
        default=TASKS, min_length=1
    )
    """Kinds of tasks, with shares if they are not equal."""
    seeds: str | None = kdtool.Field(default=None, min_length=1)
    """The corpus of the recipe (`corpora.NAME`) whose training examples inspire tasks, a piece of code each (OSS-Instruct).
    They are not trained on. null gives only a subject."""
    tested: tuple[Language, ...] = ()
    """Languages in which the teacher also writes tests, which run in the sandbox; rows whose tests fail are rejected.
    `explain` is never tested, because its answers need no code."""
    repairs: int = kdtool.Field(default=0, ge=0, le=10)
    """Maximum number of times that a candidate goes back to the teacher with the error, if it has the wrong form, fails its
    tests, or is rejected by a filter in `repaired`; after that a new one is requested."""
    repaired: tuple[str, ...] = ("syntax",)
    """Filters, by their names in the recipe, whose rejections are repaired."""
    give: Literal["rows", "pairs"] = "rows"
    """`rows`: every accepted row. `pairs`: preferences of an accepted answer over the one that it repairs, for `preference`;
    rows that repair no answer to the same task are left out. Both send the same requests, so a second corpus in a recipe
    finds the answers of the first."""
    form: Literal["messages", "completion"] = "messages"
    """Rows as conversations, or as prompts with completions. Pairs are prompts with completions."""
    candidates: float = kdtool.Field(default=4.0, ge=1, le=1000)
    """Maximum number of requests in each cell, including repairs, as a multiple of its rows."""
    dollars: float | None = kdtool.Field(default=None, gt=0, le=1e6)
    """Maximum dollars in each cell, for teachers with prices; null leaves the limit to the teacher."""
    fewer: bool = False
    """Continue with fewer rows if a cell cannot be filled; otherwise the run ends with the reasons."""
    round: int = kdtool.Field(default=4096, ge=1, le=1_000_000)
    """Number of requests to send before their answers are judged and the missing rows are requested again. For teachers that
    answer in batches, use the largest batch they accept."""
    max_tokens: int = kdtool.Field(default=4096, ge=1, le=1_048_576)
    """Maximum tokens per answer; answers that are cut off there are rejected."""
    temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
    """0 takes the likeliest token each time; answers still differ, because each request has its own subject and setting."""
    seconds: float = kdtool.Field(default=10.0, gt=0, le=600)
    """Time limit of a row's tests."""

    @pydantic.model_validator(mode="after")
    def _can_be_drawn(self) -> InstructConfig:
        if self.give == "pairs" and not self.repairs:
            raise ValueError(
                "pairs are made of answers that were repaired: set repairs, for example to 2, or give: rows"
            )
        return self

    @property
    def quotas(self) -> dict[Cell, int]:
        """Rows of each cell."""
        return quotas(self.rows, shares_of(self.languages), shares_of(self.difficulties), shares_of(self.tasks))

    @property
    def picodollars(self) -> int | None:
        """The limit of a cell in picodollars, None without one."""
        return None if self.dollars is None else round(self.dollars * _PICODOLLARS)

    def is_tested(self, cell: Cell) -> bool:
        """Return whether the teacher writes tests for rows of a cell."""
        return cell.language in self.tested and cell.task not in WITHOUT_CODE

    def most_requests(self, rows: int) -> int:
        """Return the maximum number of requests in a cell with this number of rows."""
        return math.ceil(self.candidates * rows)
