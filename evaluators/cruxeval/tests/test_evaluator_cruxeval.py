"""Published pairs pass in both tasks, other answers fail, and an answer cannot pass by calling the function."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_cruxeval import CRUXEval
from kdtool_programs import Module, Problem
from kdtool_testing import EvaluatorConformance, make_run
from kdtool_testing.sandbox import find_failures, sandbox_is_there

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "data" / "cruxeval" / "cruxeval.jsonl"
RECORDS = [
    {
        "id": "sample_0",
        "code": "def f(a, b=1):\n    return {a: (b, None)}",
        "input": "'x==y', b=2.5",
        "output": "{'x==y': (2.5, None)}",
    },
    {
        "id": "sample_1",
        "code": "def f(text):\n    return sorted(text)[::-1]",
        "input": "'abc'",
        "output": "['c', 'b', 'a']",
    },
]
needs_sandbox = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")


def write(folder: Path, records: Sequence[dict[str, str]]) -> Path:
    path = folder / "cruxeval.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, RECORDS)


def problems(file: Path, **settings: Any) -> dict[str, Problem]:
    evaluator = CRUXEval(CRUXEval.Config(file=file, **settings))
    return {problem.id: problem for problem in evaluator.problems(make_run(file.parent))}


@needs_sandbox
class TestCRUXEval(EvaluatorConformance):
    component = CRUXEval
    entry_point = "cruxeval"
    settings: ClassVar[dict[str, Any]] = {"file": "cruxeval.jsonl", "maximum_tokens": 8}

    def prepare(self, folder: Path) -> dict[str, Any]:
        return {"file": str(write(folder, RECORDS))}

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"file": str(write(folder, []))}


@needs_sandbox
@pytest.mark.parametrize("whole", [False, True])
def test_answers_are_judged_by_what_they_say(whole: bool, file: Path) -> None:
    asked = problems(file)
    answers = {
        "sample_0/output": {
            "assert f('x==y', b=2.5) == {'x==y': (2.5, None)}\n": True,
            "{'x==y': (2.5, None)}": True,
            "assert f('x==y', b=2.5) == dict([('x==y', (5 / 2, None))])  # done": True,
            "assert f('x==y', b=2.5) == {'x==y': (2.5, None)}, 'message'\nThis is why.": True,
            "[ANSWER]\n{'x==y': (2.5, None)}\n[/ANSWER] and more": True,
            "assert f('x==y', b=2.5) == f('x==y', b=2.5)": False,
            "f('x==y', b=2.5)": False,
            "assert f('x==y', b=2.5) != 1": False,
            "assert f('x==y', b=2.5) == {'x==y': (2.5, 0)}": False,
            "assert f('x==y', b=2.5) == {'x==y':": False,
            "": False,
        },
        "sample_1/input": {
            "assert f('bca') == ['c', 'b', 'a']\n": True,
            "f(['c', 'a', 'b'])": True,
            "f(text='cab')": True,
            "assert f('abd') == ['c', 'b', 'a']": False,
            "['c', 'b', 'a']": False,
            "assert list('cba') == ['c', 'b', 'a']": False,
            "": False,
        },
    }
    works, expected = {}, set()
    for name, judged in answers.items():
        for number, (answer, is_right) in enumerate(judged.items()):
            works[f"{name} {number}"] = (asked[name].whole if whole else asked[name].continued)(answer)
            expected |= set() if is_right else {f"{name} {number}"}
    assert find_failures(works, 3.0) == expected


def test_prompts_end_where_the_answer_begins(file: Path) -> None:
    asked = problems(file)
    base, chat = asked["sample_1/output"].forms["base"], asked["sample_1/input"].forms["chat"]
    assert base.prompt.endswith("    return sorted(text)[::-1]\nassert f('abc') == ??\n[/PYTHON]\n[ANSWER]\n")
    assert base.prompt.count("[ANSWER]\n") == 3
    assert base.stop == chat.stop == ("[/ANSWER]",)
    assert chat.turns[0][1].endswith("assert f(??) == ['c', 'b', 'a']\n[/PYTHON]\n")
    assert chat.prompt == "[ANSWER]\n"


def test_tasks_can_be_chosen_and_have_their_own_measurements(file: Path) -> None:
    assert {name.partition("/")[2] for name in problems(file, tasks=("input",))} == {"input"}
    evaluator = CRUXEval(CRUXEval.Config(file=file, tasks=("input",), samples=2, temperature=0.5))
    names = ("pass@1", "pass@2", "unanswered", "missing-modules")
    assert evaluator.measurements == tuple(f"cruxeval.input.{name}" for name in names)
    found = evaluator.kdtool_problems(make_run(file.parent))
    assert [example.id for example in found] == ["sample_0", "sample_1"]


@pytest.mark.parametrize("content", ["no json", '{"id": "x"}'])
def test_another_file_is_refused_with_what_was_expected(content: str, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(content)
    with pytest.raises(kdtool.UsageError, match=r"cruxeval\.file.*cruxeval\.jsonl of facebookresearch"):
        problems(other)


@needs_sandbox
@pytest.mark.skipif(
    not PUBLISHED.is_file(), reason="CRUXEval's file is not here; pairs of the same form are tested above"
)
def test_all_published_pairs_pass() -> None:
    found = problems(PUBLISHED)
    assert len(found) == 1600
    works = {name: problem.continued(problem.solution) for name, problem in found.items()}
    assert all(isinstance(work, Module) and work.source for work in works.values())
    assert find_failures(works, 3.0) == set()
