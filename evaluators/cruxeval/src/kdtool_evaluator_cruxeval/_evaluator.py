"""The evaluator `cruxeval` and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import kdtool
from kdtool_programs import PassAtK

if TYPE_CHECKING:
    from kdtool_programs import Problem

__all__ = ["CRUXEval"]


class CRUXEval(PassAtK):
    """Python functions of a few lines, each with an input and its output: one is asked for."""

    benchmark: ClassVar[str] = "cruxeval"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "CRUXEval's own, direct prompts",
        "chat": "CRUXEval's own direct prompts, in the model's chat template",
    }

    class Config(PassAtK.Config):
        """Settings of `cruxeval`."""

        file: kdtool.RecipePath
        """cruxeval.jsonl of facebookresearch/cruxeval, compressed with gzip or not, relative to the recipe."""
        tasks: tuple[Literal["output", "input"], ...] = kdtool.Field(default=("output", "input"), min_length=1)
        """`output` asks for a function's output on an input, `input` for an input with an output. Measurements are called
        `cruxeval.output.pass@1` and `cruxeval.input.pass@1`."""
        maximum_tokens: int = kdtool.Field(default=128, ge=1, le=100_000)
        """Maximum tokens per answer. Published scores have a limit of 1,024 for prompt and answer together."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._tasks = tuple(dict.fromkeys(config.tasks))
        self.measurements = tuple(name for task in self._tasks for name in self.measurements_of(f"cruxeval.{task}"))

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the file.

        Raises:
            kdtool.UsageError: it cannot be read.
        """
        from kdtool_measuring import read_and_hash

        return {"problems": read_and_hash(self.config.file, "cruxeval.file")[1]}

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
        """Give the licence of the problems."""
        return kdtool.LicenceTerms("MIT", url="https://github.com/facebookresearch/cruxeval")

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return each function once, with its call: without the examples that all prompts share.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in another form.
        """
        from kdtool_evaluator_cruxeval._problems import functions_of

        return [
            kdtool.Example(each.id, kdtool.Completion(f"{each.code}\n", f"assert {each.call} == {each.output}"), "test")
            for each in functions_of(self.config.file)
        ]

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of all tasks.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in another form.
        """
        from kdtool_evaluator_cruxeval._problems import functions_of, problem_of

        functions = functions_of(self.config.file)
        return [problem_of(each, task) for task in self._tasks for each in functions]

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Return the problems of each task, by `cruxeval.<task>`."""
        return {
            f"cruxeval.{task}": [problem for problem in problems if problem.id.endswith(f"/{task}")]
            for task in self._tasks
        }
