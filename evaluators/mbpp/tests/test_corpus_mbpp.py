"""MBPP: its suite on problems of our own in both forms, and splits by number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_evaluator_mbpp import MbppCorpus
from kdtool_testing import CorpusConformance, make_run

NUMBERS = [974, 601, 600, 511, 510, 11, 10, 1]
FULL = [
    {
        "text": f"Write a function to add {number}.",
        "code": f"def add{number}(x): \r\n\treturn x + {number}",
        "task_id": number,
        "test_setup_code": "",
        "test_list": [f"assert add{number}(0) == {number}", f"assert add{number}(1) == {number + 1}"],
        "challenge_test_list": [],
    }
    for number in NUMBERS
]
SANITIZED = [
    {
        "source_file": "some.ipynb",
        "task_id": problem["task_id"],
        "prompt": problem["text"],
        "code": str(problem["code"]).replace("\r", ""),
        "test_imports": ["import math", "import re"],
        "test_list": problem["test_list"],
    }
    for problem in FULL
]


def write(folder: Path) -> tuple[Path, Path]:
    full, sanitized = folder / "mbpp.jsonl", folder / "sanitized-mbpp.json"
    full.write_text("".join(json.dumps(problem) + "\n" for problem in FULL), encoding="utf-8")
    sanitized.write_text(json.dumps(SANITIZED), encoding="utf-8")
    return full, sanitized


class TestFull(CorpusConformance):
    component = MbppCorpus
    entry_point = "mbpp"

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        return {"file": str(write(folder)[0])}


def examples(file: Path) -> list[kdtool.Example]:
    return list(MbppCorpus(MbppCorpus.Config(file=file)).kdtool_examples(make_run(file.parent)))


def test_a_problem_s_number_decides_its_split(tmp_path: Path) -> None:
    for file in write(tmp_path):
        assert [(example.id, example.split) for example in examples(file)] == [
            ("mbpp/11", "test"),
            ("mbpp/510", "test"),
            ("mbpp/511", "validation"),
            ("mbpp/600", "validation"),
            ("mbpp/601", "train"),
            ("mbpp/974", "train"),
        ]


def test_the_solution_is_learned_and_the_tests_are_kept(tmp_path: Path) -> None:
    full, sanitized = (examples(file)[-1] for file in write(tmp_path))
    assert full.body == sanitized.body
    assert full.body == kdtool.Completion(
        '"""\nWrite a function to add 974.\nassert add974(0) == 974\n"""\n', "def add974(x): \n\treturn x + 974\n"
    )
    assert json.loads(full.meta["tests"]) == ["assert add974(0) == 974", "assert add974(1) == 975"]
    assert (full.meta["setup"], sanitized.meta["setup"]) == ("", "import math\nimport re")
    assert (full.language, full.licence, full.source) == ("python", "CC-BY-4.0", "MBPP")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "contains no problems"),
        ("{", "neither JSON Lines nor a list"),
        ("[1]", "problem 1: not a problem of MBPP"),
        (json.dumps({**FULL[0], "task_id": "601"}), "not a problem of MBPP"),
        (json.dumps([FULL[0], FULL[0]]), "the problem 974 twice"),
    ],
)
def test_files_that_are_something_else_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mbpp.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(kdtool.UsageError, match=message):
        examples(path)


def test_a_missing_file_and_a_hub_that_must_not_be_asked_are_named(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"mbpp\.file: .*none\.jsonl cannot be read"):
        MbppCorpus(MbppCorpus.Config(file=tmp_path / "none.jsonl")).kdtool_identity(make_run(tmp_path))
    with pytest.raises(kdtool.ServiceError, match=r"google-research-datasets/mbpp: .*offline"):
        MbppCorpus(MbppCorpus.Config()).kdtool_identity(make_run(tmp_path, offline=True))
