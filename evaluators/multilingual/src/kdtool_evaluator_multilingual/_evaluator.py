"""The evaluator `multilingual`, and its files: their dataset, languages and problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import kdtool
from kdtool_measuring import check_fields, read_and_hash, records_of
from kdtool_programs import Limits, PassAtK, Problem, installed_languages, missing

from kdtool_evaluator_multilingual._data_set import DataSet, Record
from kdtool_evaluator_multilingual._humaneval import HUMANEVAL_FIX, HUMANEVAL_SYNTHESIZE, HUMANEVAL_X
from kdtool_evaluator_multilingual._multipl_e import MULTIPL_E


class Multilingual(PassAtK):
    """Functions to be written or fixed in several languages; each language is scored separately."""

    benchmark: ClassVar[str] = "multilingual"
    limits = Limits(15.0, 2**30)
    """A gibibyte is for a Java machine with its compiler; how long a program may run depends on the dataset."""

    class Config(PassAtK.Config):
        """Settings of `multilingual`."""

        files: tuple[kdtool.RecipePath, ...] = kdtool.Field(min_length=1)
        """Files of HumanEval-X (humaneval_cpp.jsonl, …), of MultiPL-E (humaneval-cpp.jsonl, …) or of HumanEvalPack,
        compressed with gzip or not, relative to the recipe. The records show the dataset and the language."""
        task: Literal["synthesize", "fix"] = "synthesize"
        """`synthesize` asks for a function from its signature and documentation. `fix` is HumanEvalFix, from files of
        HumanEvalPack: it shows a function with a bug and its tests, and asks for the function without the bug. Its
        measurements are called `humanevalfix.<language>.pass@1`."""

    config: Config

    def __init__(self, config: Config) -> None:
        if config.task == "fix":
            self.benchmark = "humanevalfix"  # type: ignore[misc] # of this instance
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
        return missing(list(dict.fromkeys(problem.language for problem in self._problem_set.problems)), self.packages)

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of all files, without those that this evaluator cannot judge.

        Raises:
            kdtool.UsageError: a file cannot be read, or is in another form.
        """
        return self._problem_set.problems

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Return the problems of each language, by `multilingual.<language>` or `humanevalfix.<language>`."""
        languages = dict.fromkeys(problem.language for problem in problems)
        return {
            f"{self.benchmark}.{name}": [problem for problem in problems if problem.language == name]
            for name in languages
        }

    def benchmark_settings(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Return the dataset's name, the harness with the same prompts, and which problems of the language are left out."""
        data_set, name = self._problem_set.data_set, problems[0].language
        settings = {"data": data_set.name, "like": data_set.harness[self.config.form]}
        left_out = self._problem_set.left_out.get(name)
        return settings | ({"left out": ", ".join(left_out)} if left_out else {})

    @cached_property
    def _problem_set(self) -> Published:
        return read_published(self.config.files, self.config.task)


_KEY = "multilingual.files"
_DATA_SETS: Mapping[str, Sequence[DataSet]] = {
    "synthesize": (HUMANEVAL_SYNTHESIZE, HUMANEVAL_X, MULTIPL_E),  # HumanEvalPack has all fields of HumanEval-X, too
    "fix": (HUMANEVAL_FIX,),
}
_EXPECTED = {
    "synthesize": "a file of HumanEval-X (humaneval_js.jsonl), of MultiPL-E (humaneval-js.jsonl), or of HumanEvalPack",
    "fix": "a file of HumanEvalPack (humanevalpack.jsonl)",
}


@dataclass(frozen=True)
class Published:
    """A dataset, its problems in the files' order, and, by language, notes on those that cannot be judged."""

    data_set: DataSet
    problems: Sequence[Problem]
    left_out: Mapping[str, Sequence[str]]


def read_published(files: Sequence[Path], task: Literal["synthesize", "fix"]) -> Published:
    """Return the content of the files, as problems of the task.

    Raises:
        kdtool.UsageError: a file cannot be read, is in another form or another language; the files contain both datasets,
            a problem twice, or none that can be judged.
    """
    problems: dict[str, Problem] = {}
    left_out: dict[str, list[str]] = {}
    data_set: DataSet | None = None
    for file in files:
        for its, record in _records(file, task):
            data_set = data_set or its
            if its is not data_set:
                raise kdtool.UsageError(
                    f"{_KEY}: {file} is of {its.name}, {files[0]} of {data_set.name}: give one of them"
                )
            problem = its.problem(its.languages[its.language(record)], record)
            if problem.id in problems:
                raise kdtool.UsageError(f"{_KEY}: {file} contains {problem.id} a second time: give each problem once")
            if why := its.left_out.get(problem.id):
                left_out.setdefault(problem.language, []).append(f"{problem.id} ({why})")
            else:
                problems[problem.id] = problem
    if data_set is None or not problems:
        raise kdtool.UsageError(f"{_KEY}: the files contain no problem that can be judged; expected {_EXPECTED[task]}")
    return Published(data_set, list(problems.values()), left_out)


def _records(file: Path, task: str) -> Iterator[tuple[DataSet, Record]]:
    """Yield a file's records, each with its dataset, in languages that the sandbox runs."""
    expected = _EXPECTED[task]
    for location, record in records_of(file, _KEY, {"prompt": "text"}, expected):
        data_set = next((known for known in _DATA_SETS[task] if all(name in record for name in known.needed)), None)
        if data_set is None:
            fields = ", or ".join(f"{', '.join(known.needed)} ({known.name})" for known in _DATA_SETS[task])
            raise kdtool.UsageError(f"{location}: fields are missing; expected {fields}: give {expected}")
        check_fields(record, data_set.needed, location, expected)
        given = data_set.language(record)
        if given not in data_set.languages:
            raise kdtool.UsageError(f"{location}: is in {given!r}; expected one of {', '.join(data_set.languages)}")
        if (language := data_set.languages[given]) not in installed_languages():
            raise kdtool.UsageError(
                f"{location}: is in {language}, and no installed package runs that in the sandbox: install "
                f"one that does, or give files in {', '.join(installed_languages())}"
            )
        check_fields(record, data_set.more.get(language, {}), location, expected)
        yield data_set, record
