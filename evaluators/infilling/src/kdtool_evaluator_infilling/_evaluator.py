"""The evaluator `infilling` and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import kdtool
from kdtool_programs import PassAtK
from pydantic import model_validator

if TYPE_CHECKING:
    from kdtool_programs import Problem

__all__ = ["Infilling"]


class Infilling(PassAtK):
    """Spans in the solutions of HumanEval, to be filled between the code before and after; one score per span type."""

    benchmark: ClassVar[str] = "infilling"
    harness: ClassVar[Mapping[str, str]] = {"base": "openai/human-eval-infilling"}

    class Config(PassAtK.Config):
        """Settings of `infilling`."""

        form: Literal["base"] = "base"
        """Spans are filled with the FIM tokens of the model's tokenizer."""
        spans: tuple[Literal["single-line", "multi-line", "random-span"], ...] = ("single-line",)
        """Kinds of spans: 1,033 of a line, 5,815 of some lines, 1,640 that begin and end anywhere."""
        random_span: kdtool.RecipePath | None = kdtool.Field(default=None)
        """HumanEval-RandomSpanInfilling.jsonl (or …Light), perhaps gzipped, relative to the recipe: for `random-span`."""

        @model_validator(mode="after")
        def _can_be_read(self) -> Infilling.Config:
            if not self.spans:
                raise ValueError("spans is empty; name a kind of span, such as single-line")
            if ("random-span" in self.spans) != (self.random_span is not None):
                raise ValueError(
                    "spans with random-span and the file random_span belong together: give both, or neither; the file is "
                    "HumanEval-RandomSpanInfilling.jsonl.gz of openai/human-eval-infilling"
                )
            return self

    config: Config
    licence_terms = kdtool.LicenceTerms("MIT", url="https://github.com/openai/human-eval-infilling")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.measurements = [name for span in config.spans for name in self.measurements_of(f"{self.benchmark}.{span}")]

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the problems.

        Raises:
            kdtool.UsageError: the file cannot be read.
        """
        from kdtool_measuring import read_and_hash

        from kdtool_evaluator_infilling._problems import HUMAN_EVAL, KEY

        files = [HUMAN_EVAL, *([self.config.random_span] if self.config.random_span else [])]
        return {"problems": ", ".join(read_and_hash(file, KEY)[1] for file in files)}

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of all kinds.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in another form.
        """
        return [problem for problems in self._by_span.values() for problem in problems]

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return HumanEval's problems with their solutions; all spans are cut from them."""
        from kdtool_evaluator_infilling._problems import examples

        return examples()

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Return the problems of each kind, by `infilling.<kind>`."""
        return {f"{self.benchmark}.{span}": found for span, found in self._by_span.items()}

    @cached_property
    def _by_span(self) -> Mapping[str, Sequence[Problem]]:
        from kdtool_evaluator_infilling._problems import problems_of

        return {span: problems_of(span, self.config.random_span) for span in dict.fromkeys(self.config.spans)}
