"""Solutions pass and wrong ones fail, on problems of our own here and on the published ones where they are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_mbpp import MbppEvaluator
from kdtool_programs import Problem
from kdtool_testing import EvaluatorConformance, make_run
from kdtool_testing.sandbox import find_failures, sandbox_is_there

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
OWN = [
    {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "import math\r\ndef double(x):\r\n    return 2 * x",
        "test_list": ["assert double(2) == 4", "assert math.isclose(double(0.1), 0.2)"],
    },
    {
        "task_id": 12,
        "text": "Write a function and a class.",
        "code": "class Box:\n    def __init__(self, x):\n        self.x = x\ndef boxed(x):\n    return Box(x)",
        "test_list": ["assert boxed(3).x == 3"],
        "test_setup_code": "three = 3",
    },
]


needs_sandbox = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")


def written(folder: Path) -> Path:
    file = folder / "mbpp.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in OWN))
    return file


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return written(tmp_path)


@needs_sandbox
class TestMbpp(EvaluatorConformance):
    component = MbppEvaluator
    entry_point = "mbpp"
    settings: ClassVar[dict[str, Any]] = {"maximum_tokens": 32}

    def prepare(self, folder: Path) -> dict[str, Any]:
        return {"file": str(written(folder))}

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        (folder / "empty.jsonl").touch()
        yield {"file": str(folder / "empty.jsonl")}
        yield {"plus": str(folder / "empty.jsonl")}
        yield {"split": "validation"}


def problems(folder: Path, **settings: Any) -> list[Problem]:
    return list(MbppEvaluator(MbppEvaluator.Config(**settings)).problems(make_run(folder)))


@needs_sandbox
def test_solutions_pass_and_wrong_ones_fail(own: Path, tmp_path: Path) -> None:
    found = problems(tmp_path, file=own)
    right = {one.id: one.continued(one.solution) for one in found}
    wrong = {f"{one.id} wrong": one.continued("def double(x): return x\ndef boxed(x): return x") for one in found}
    assert find_failures(right | wrong) == set(wrong)


@needs_sandbox
def test_tests_that_bring_their_own_helper_functions_ask_no_program_for_them(tmp_path: Path) -> None:
    code = "def half(x):\n    return x / 2\ndef mean(x, y):\n    return half(x + y)"
    test = f"{code.replace('mean', 'ref_func')}\nassert mean(1, 2) == ref_func(1, 2)"
    record = {"task_id": 630, "code": code, "prompt": "Write a function to find the mean.", "test": test}
    (tmp_path / "plus.jsonl").write_text(json.dumps(record) + "\n")
    (found,) = problems(tmp_path, plus=tmp_path / "plus.jsonl")
    answers = {
        "right": "def mean(x, y): return (x + y) / 2",
        "wrong": "def half(x): return 1.5\ndef mean(x, y): return x",
    }
    assert find_failures({name: found.continued(answer) for name, answer in answers.items()}) == {"wrong"}


def test_prompts_are_asked_as_published(own: Path, tmp_path: Path) -> None:
    (first, _) = problems(tmp_path, file=own)
    assert first.forms["base"].prompt == '"""\nWrite a function to double a number.\nassert double(2) == 4\n"""\n'
    assert "Your code should pass these tests:\nassert double(2) == 4\n" in first.forms["chat"].turns[0][1]
    assert first.forms["chat"].stop == ("```",)


def test_a_split_without_problems_is_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"mbpp\.split.*'train'"):
        problems(tmp_path, file=own, split="train")


@needs_sandbox
@pytest.mark.skipif(not (DATA / "mbpp").is_dir(), reason="MBPP is not here")
@pytest.mark.parametrize(("split", "count"), [("test", 500), ("train", 374), ("validation", 90)])
def test_all_published_solutions_pass(split: str, count: int, tmp_path: Path) -> None:
    file, (packed, *_) = tmp_path / "mbpp.jsonl", sorted((DATA / "mbpp").glob("mbpp.jsonl*"))
    file.write_bytes(gzip.decompress(packed.read_bytes()) if packed.suffix == ".gz" else packed.read_bytes())
    found = problems(tmp_path, file=file, split=split)
    assert len(found) == count
    assert find_failures({one.id: one.continued(one.solution) for one in found}) == set()
