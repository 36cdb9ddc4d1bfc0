"""Settings of `instruct`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import kdtool
import pydantic

from kdtool_corpus_instruct._cells import (
    DIFFICULTIES,
    LANGUAGES,
    TASKS,
    WITHOUT_CODE,
    Cell,
    Difficulty,
    Language,
    quotas,
    shares_of,
)
from kdtool_corpus_instruct._ideas import VARIABLES

__all__ = ["InstructConfig", "Style"]

Style = Literal["concept", "seed", "evolve", "examples"]
_Name = Annotated[str, kdtool.Field(pattern=r"^[a-z_][a-z0-9_]*$")]
_Share = Annotated[float, kdtool.Field(gt=0, le=1e6)]
_PICODOLLARS = 10**12


class InstructConfig(kdtool.Config):
    """Settings of `instruct`."""

    ask: str = kdtool.Field(default="teacher", min_length=1)
    """The teacher that writes, by its name in the recipe: `teacher`, or `teachers.NAME`."""
    rows: int = kdtool.Field(ge=1, le=100_000_000)
    """Accepted rows in total, shared out over language × difficulty × task."""
    languages: tuple[Language, ...] | Annotated[dict[Language, _Share], kdtool.Field(min_length=1)] = kdtool.Field(
        default=LANGUAGES, min_length=1
    )
    """Programming languages, with their shares if they are not equal: {python: 3, rust: 1}."""
    difficulties: tuple[Difficulty, ...] | Annotated[dict[Difficulty, _Share], kdtool.Field(min_length=1)] = (
        kdtool.Field(default=DIFFICULTIES, min_length=1)
    )
    """Difficulties, with shares if they are not equal."""
    tasks: tuple[_Name, ...] | Annotated[dict[_Name, _Share], kdtool.Field(min_length=1)] = kdtool.Field(
        default=TASKS, min_length=1
    )
    """Kinds of tasks, with shares if they are not equal; each has a template of this package or one in `templates`."""
    templates: dict[_Name, kdtool.RecipePath] = kdtool.Field(default={})
    """Jinja files by task, in place of this package's or for tasks of your own; they may extend `_base.jinja`."""
    variables: dict[_Name, str | Annotated[tuple[str, ...], kdtool.Field(min_length=1)]] = kdtool.Field(default={})
    """Further variables of templates. Of a list one is drawn for each request."""
    styles: tuple[Style, ...] = ()
    """Sources of tasks, drawn for each request: `concept` gives a subject alone, `seed` a piece of code (OSS-Instruct),
    `evolve` a task to rewrite (Evol-Instruct), `examples` two tasks (self-instruct). All but the first need `seeds`. Empty
    stands for `seed` if there are seeds, else for `concept`."""
    seeds: str | None = kdtool.Field(default=None, min_length=1)
    """The corpus of the recipe (`corpora.NAME`) that seeds come from: its training examples, which are not learned."""
    tested: tuple[Language, ...] = ()
    """Languages in which the teacher writes tests too, which run in the sandbox; rows whose tests fail are rejected. Not of
    `explain`, whose answers need no code."""
    repairs: int = kdtool.Field(default=0, ge=0, le=10)
    """Times that a candidate goes back to the teacher with the error before a new one is asked for, if it has the wrong
    form, fails its tests, or is rejected by a filter in `repaired`."""
    repaired: tuple[str, ...] = ("syntax",)
    """Filters, by their names in the recipe, whose rejections are repaired."""
    give: Literal["rows", "pairs"] = "rows"
    """`rows`: every accepted row. `pairs`: preferences of an accepted answer over the one that it repairs, for `preference`;
    of the accepted rows only those with such an answer to the same task. Both ask for the same, so that the second one of a
    recipe finds the answers of the first."""
    form: Literal["messages", "completion"] = "messages"
    """Rows as conversations, or as prompts with completions. Pairs are prompts with completions."""
    candidates: float = kdtool.Field(default=4.0, ge=1, le=1000)
    """Requests at most in each cell, repairs included, as a multiple of its rows."""
    dollars: float | None = kdtool.Field(default=None, gt=0, le=1e6)
    """Dollars at most in each cell, for teachers that state prices; null leaves the limit to the teacher."""
    fewer: bool = False
    """Go on with fewer rows where a cell cannot be filled; otherwise the run ends with the reasons."""
    round: int = kdtool.Field(default=4096, ge=1, le=1_000_000)
    """Requests that are sent before their answers are judged, and what is missing is asked for anew. For teachers that
    answer in batches, as large as they take."""
    max_tokens: int = kdtool.Field(default=4096, ge=1, le=1_048_576)
    """Tokens of an answer at most; one that is cut off there is rejected."""
    temperature: float = kdtool.Field(default=0.0, ge=0, le=10)
    """0 takes the likeliest token each time: requests differ by what is drawn for them."""
    seconds: float = kdtool.Field(default=10.0, gt=0, le=600)
    """Time limit of a row's tests."""
    workers: int = kdtool.Field(default=2, ge=1, le=256, json_schema_extra=kdtool.does_not_affect_results())
    """Tests that run in parallel."""

    @pydantic.model_validator(mode="after")
    def _can_be_drawn(self) -> InstructConfig:
        needing = [style for style in self.styles if style != "concept"]
        if needing and self.seeds is None:
            raise ValueError(f"styles {', '.join(needing)} need seeds: name a corpus, or leave `concept` alone")
        unknown = [task for task in shares_of(self.tasks) if task not in TASKS and task not in self.templates]
        if unknown:
            raise ValueError(
                f"tasks without a template: {', '.join(unknown)}; add them to `templates`, or choose from {TASKS}"
            )
        unused = [task for task in self.templates if task not in shares_of(self.tasks) and task != "_repair"]
        if unused:
            raise ValueError(f"templates of no task: {', '.join(unused)}; add them to `tasks`, or leave them out")
        if taken := sorted(VARIABLES.union({"error"}).intersection(self.variables)):
            raise ValueError(f"variables that requests have already: {', '.join(taken)}; choose other names")
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
    def drawn_styles(self) -> tuple[Style, ...]:
        """Styles to draw from."""
        return self.styles or ("concept" if self.seeds is None else "seed",)

    @property
    def picodollars(self) -> int | None:
        """The limit of a cell in picodollars, None without one."""
        return None if self.dollars is None else round(self.dollars * _PICODOLLARS)

    def is_tested(self, cell: Cell) -> bool:
        """Return whether the teacher writes tests for rows of a cell."""
        return cell.language in self.tested and cell.task not in WITHOUT_CODE

    def most_requests(self, rows: int) -> int:
        """Return the requests at most in a cell of so many rows."""
        return math.ceil(self.candidates * rows)
