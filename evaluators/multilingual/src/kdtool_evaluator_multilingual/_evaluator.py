"""The evaluator `multilingual` and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import kdtool
from kdtool_measuring import read_and_hash
from kdtool_programs import Limits, PassAtK

if TYPE_CHECKING:
    from kdtool_programs import Problem

    from kdtool_evaluator_multilingual._published import Published

__all__ = ["Multilingual"]


class Multilingual(PassAtK):
    """Functions to be written, fixed or explained in several languages; each language is scored separately."""

    benchmark: ClassVar[str] = "multilingual"
    limits = Limits(15.0, 2**30)
    """A gibibyte is for a Java machine with its compiler; how long a program may run depends on the dataset."""

    class Config(PassAtK.Config):
        """Settings of `multilingual`."""

        files: tuple[kdtool.RecipePath, ...] = kdtool.Field(min_length=1)
        """Files of HumanEval-X (humaneval_cpp.jsonl, …), of MultiPL-E (humaneval-cpp.jsonl, …) or of HumanEvalPack,
        compressed with gzip or not, relative to the recipe. The records show the dataset and the language."""
        task: Literal["synthesize", "fix", "explain"] = "synthesize"
        """`synthesize` asks for a function from its signature and documentation. The others are HumanEvalFix and
        HumanEvalExplain, from files of HumanEvalPack: `fix` shows a function with a bug and its tests, and asks for the
        function without the bug; `explain` asks for a description of a function, and then for the function from that
        description. Their measurements are called `humanevalfix.<language>.pass@1` and
        `humanevalexplain.<language>.pass@1`."""

    config: Config

    def __init__(self, config: Config) -> None:
        if config.task != "synthesize":
            self.benchmark = f"humaneval{config.task}"  # type: ignore[misc] # of this instance
        super().__init__(config)
        self.measurements = self.measurements_of(f"{self.benchmark}.*")

    @property
    def seconds(self) -> float:
        """The time limit of a program; that of the dataset's own harness if the config has none."""
        return self._problem_set.data_set.seconds if self.config.seconds is None else self.config.seconds

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of each file.

        Raises:
            kdtool.UsageError: a file cannot be read.
        """
        found = [read_and_hash(file, "multilingual.files")[1] for file in self.config.files]
        return {"problems": ", ".join(sorted(found))}

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
        """Give the licence of the problems.

        Raises:
            kdtool.UsageError: a file cannot be read, or is in another form.
        """
        return self._problem_set.data_set.terms

    def missing(self) -> Sequence[str]:
        """Return which toolchains are not on this machine or do not run in the sandbox, and why none runs there, if so.

        Raises:
            kdtool.UsageError: a file cannot be read, or is in another form.
        """
        from kdtool_programs import missing

        return missing(list(dict.fromkeys(problem.language for problem in self._problem_set.problems)))

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of all files, without those that this evaluator cannot judge.

        Raises:
            kdtool.UsageError: a file cannot be read, or is in another form.
        """
        return self._problem_set.problems

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Return the problems of each language, by `multilingual.<language>`, `humanevalfix.<language>` or so."""
        languages = dict.fromkeys(problem.language for problem in problems)
        return {
            f"{self.benchmark}.{name}": [problem for problem in problems if problem.language == name]
            for name in languages
        }

    def problems_for(
        self, run: kdtool.RunInfo, subject: kdtool.Subject, problems: Sequence[Problem]
    ) -> Sequence[Problem] | None:
        """Return the problems; for the task `explain` with the subject's own descriptions, which it is asked for first."""
        from kdtool_evaluator_multilingual._explaining import rewrite

        if self.config.task != "explain":
            return problems
        return rewrite(run, subject, problems, self.config, self.benchmark)

    def benchmark_settings(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Return the dataset's name, the harness with the same prompts, and which problems of the language are left out."""
        data_set, name = self._problem_set.data_set, problems[0].language
        settings = {"data": data_set.name, "like": data_set.harness[self.config.form]}
        left_out = self._problem_set.left_out.get(name)
        return settings | ({"left out": ", ".join(left_out)} if left_out else {})

    @cached_property
    def _problem_set(self) -> Published:
        from kdtool_evaluator_multilingual._published import read_published

        return read_published(self.config.files, self.config.task)
