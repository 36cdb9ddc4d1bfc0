"""The evaluator `codexglue` and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from pydantic import model_validator

if TYPE_CHECKING:
    from kdtool_evaluator_codexglue._lines import Lines
    from kdtool_evaluator_codexglue._tokens import Code

_MEASUREMENTS = {
    "line_completion": ("*.line.exact-match", "*.line.edit-similarity", "*.line.unanswered"),
    "token_completion": ("*.token-accuracy",),
}
"""Names of measurements after the prefix `codexglue.`, by the settings of files; `*` is a programming language."""
_LONGEST = 1024
"""Tokens of a question with its answer, about: CodeXGLUE cuts them there."""


class CodeXGlue(kdtool.Evaluator):
    """Line and token completion of CodeXGLUE, each on a file of its authors."""

    class Config(kdtool.Config):
        """Files of the tasks to measure, one for each, relative to the recipe, compressed with gzip or not."""

        line_completion: kdtool.RecipePath | None = kdtool.Field(default=None)
        """test.json of line completion (py150 or javaCorpus): `codexglue.python.line.exact-match`, `.edit-similarity`, or
        `codexglue.java.…`."""
        token_completion: kdtool.RecipePath | None = kdtool.Field(default=None)
        """test.txt of token completion, as its preprocess.py writes it: `codexglue.python.token-accuracy`, or `java`."""
        limit: int | None = kdtool.Field(default=None, ge=1, le=10_000_000)
        """Largest number of examples of each file, chosen by the hashes of their numbers; null takes all, as usual."""

        @model_validator(mode="after")
        def _something_is_measured(self) -> CodeXGlue.Config:
            if not self.files:
                names = ", ".join(name for name in type(self).model_fields if name != "limit")
                raise ValueError(f"nothing would be measured: give the file of at least one task ({names})")
            return self

        @property
        def files(self) -> Mapping[str, Path]:
            """The files that are given, by their settings."""
            names = (name for name in type(self).model_fields if name != "limit")
            return {name: file for name in names if (file := getattr(self, name)) is not None}

    config: Config
    reads_text = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.measurements = [f"codexglue.{name}" for file in config.files for name in _MEASUREMENTS[file]]

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of each file.

        Raises:
            kdtool.UsageError: one cannot be read.
        """
        from kdtool_measuring import read_and_hash

        return {name: read_and_hash(file, f"codexglue.{name}")[1] for name, file in self.config.files.items()}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Read the files.

        Raises:
            kdtool.UsageError: a file is in another form, or empty.
        """
        if when == "text":
            self._lines(run)
            self._codes()
        return ()

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_measuring import bytes_of_exact_heads, bytes_to_answer

        student = ahead.models.get(ahead.student)
        if student is not None:
            size = bytes_to_answer(ahead, min(_LONGEST, student.context or _LONGEST)) + bytes_of_exact_heads(ahead)
            yield kdtool.Estimate("measured student", ("scores",), compute_bytes=size)

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        """Yield the measures of each file's task; items are its examples, for token accuracy its programs.

        Raises:
            kdtool.UsageError: a file cannot be read, or is in another form.
        """
        from kdtool_evaluator_codexglue._lines import measurements

        lines, codes = self._lines(run), self._codes()
        for subject in subjects:
            if lines is not None:
                yield from measurements(run, subject, lines)
            if codes is not None:
                from kdtool_evaluator_codexglue._tokens import accuracy

                yield from accuracy(run, subject, *codes, self._settings(run, "token_completion"))

    def _lines(self, run: kdtool.RunInfo) -> Lines | None:
        from kdtool_evaluator_codexglue._lines import lines_of

        file = self.config.line_completion
        return None if file is None else lines_of(file, self.config.limit, self._settings(run, "line_completion"))

    def _codes(self) -> tuple[str, Sequence[Code]] | None:
        from kdtool_evaluator_codexglue._tokens import codes_of

        file = self.config.token_completion
        return None if file is None else codes_of(file, self.config.limit)

    def _settings(self, run: kdtool.RunInfo, name: str) -> dict[str, str]:
        most = self.config.limit
        return {
            "file": f"SHA-256 {self.kdtool_identity(run)[name][:12]}",
            "examples": "all" if most is None else f"at most {most}, chosen by the hashes of their numbers",
        }
