"""The files: their dataset, languages and problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import kdtool
from kdtool_measuring import check_fields, records_of
from kdtool_programs import Problem, installed_languages

from kdtool_evaluator_multilingual._data_set import DataSet, Record
from kdtool_evaluator_multilingual._humaneval_pack import (
    HUMANEVAL_EXPLAIN,
    HUMANEVAL_FIX,
    HUMANEVAL_SYNTHESIZE,
)
from kdtool_evaluator_multilingual._humaneval_x import HUMANEVAL_X
from kdtool_evaluator_multilingual._multipl_e import MULTIPL_E

__all__ = ["Published", "read_published"]

_KEY = "multilingual.files"
_DATA_SETS: Mapping[str, Sequence[DataSet]] = {
    "synthesize": (HUMANEVAL_SYNTHESIZE, HUMANEVAL_X, MULTIPL_E),  # HumanEvalPack has all fields of HumanEval-X, too
    "fix": (HUMANEVAL_FIX,),
    "explain": (HUMANEVAL_EXPLAIN,),
}
_EXPECTED = {
    "synthesize": "a file of HumanEval-X (humaneval_js.jsonl), of MultiPL-E (humaneval-js.jsonl), or of HumanEvalPack",
    "fix": "a file of HumanEvalPack (humanevalpack.jsonl)",
    "explain": "a file of HumanEvalPack (humanevalpack.jsonl)",
}


@dataclass(frozen=True)
class Published:
    """A dataset, its problems in the files' order, and, by language, notes on those that cannot be judged."""

    data_set: DataSet
    problems: Sequence[Problem]
    left_out: Mapping[str, Sequence[str]]


def read_published(files: Sequence[Path], task: Literal["synthesize", "fix", "explain"]) -> Published:
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
