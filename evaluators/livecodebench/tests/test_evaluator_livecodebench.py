"""Right programs pass all tests of both types, others fail, and a pickle with anything but a text is refused."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_livecodebench import LiveCodeBench
from kdtool_programs import Problem, Sandbox, Task
from kdtool_testing import EvaluatorConformance, make_run
from kdtool_testing.sandbox import sandbox_is_there

needs_sandbox = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def cases(kind: str, *pairs: tuple[str, str]) -> str:
    return json.dumps([{"input": given, "output": output, "testtype": kind} for given, output in pairs])


READS = {
    "question_title": "Halves",
    "question_content": "Print half of each number.",
    "platform": "atcoder",
    "question_id": "abc1_a",
    "contest_id": "abc1",
    "contest_date": "2024-05-04T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": cases("stdin", ("2\n3 5\n", "1.5 2.5\n")),
    "private_test_cases": packed(cases("stdin", ("1\n4\n", "2\n"), ("0\n\n", "\n"))),
    "metadata": "{}",
}
METHOD = READS | {
    "question_id": "2888",
    "contest_date": "2023-08-21T00:00:00",
    "starter_code": "class Solution:\n    def twice(self, words: List[str], n: int) -> List[str]:\n        ",
    "public_test_cases": cases("functional", ('["a"]\n2', '["aa"]')),
    "private_test_cases": cases("functional", ('["a", "b"]\n1', '["a", "b"]'), ("[]\n3", "[]")),
    "metadata": json.dumps({"func_name": "twice"}),
}


def write(folder: Path, records: Sequence[dict[str, str]]) -> Path:
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def problems(file: Path, **settings: Any) -> dict[str, Problem]:
    evaluator = LiveCodeBench(LiveCodeBench.Config(file=file, **settings))
    return {problem.id: problem for problem in evaluator.problems(make_run(file.parent))}


@needs_sandbox
class TestLiveCodeBench(EvaluatorConformance):
    component = LiveCodeBench
    entry_point = "livecodebench"
    settings: ClassVar[dict[str, Any]] = {"file": "test.jsonl", "maximum_tokens": 8, "after": "2023-01-01"}

    def prepare(self, folder: Path) -> dict[str, Any]:
        return {"file": str(write(folder, [READS, METHOD]))}

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"file": str(write(folder, [READS])), "after": "2030-01-01"}


_HALVES = "n = int(input())\nprint(*(x / 2 for x in map(int, input().split())))\n"
_READS_ALL = """\
def main():
    print(*(x / 2 for x in map(int, stdin.read().split()[1:])))
if __name__ == '__main__':
    main()
    exit(0)
"""
_READS_BYTES = """\
import sys
for x in sys.stdin.buffer.read().split()[1:]:
    sys.stdout.buffer.write(b'%g ' % (int(x) / 2))
sys.stdout.close()
"""
_TWICE = "class Solution:\n    def twice(self, words: List[str], n: int) -> List[str]:\n        return {}\n"
_EQUALS_ALL = """\
class Any(list):
    def __eq__(self, other):
        return True
""" + _TWICE.format("Any()")
PROGRAMS = {
    "abc1_a": {
        _HALVES: True,
        _READS_ALL: True,
        _READS_BYTES: True,
        "print(*[int(x) / 2 for x in open(0).read().split()[1:]])": True,
        _HALVES.replace("/ 2", "/ 3"): False,
        f"{_HALVES}print()\nprint(1)\n": False,
        "print('1.5 2.5')": False,
        "raise SystemExit(0)": False,
        "def": False,
        "": False,
    },
    "2888": {
        _TWICE.format("[word * n for word in words]"): True,
        _TWICE.format("tuple(word * n for word in words)"): True,
        "def twice(words, n):\n    return [word * n for word in words]\n": True,
        _TWICE.format("words"): False,
        _EQUALS_ALL: False,
        "": False,
    },
}


@needs_sandbox
def test_programs_are_judged_by_all_tests(tmp_path: Path) -> None:
    found = problems(write(tmp_path, [READS, METHOD]))
    works, expected = {}, set()
    for name, programs in PROGRAMS.items():
        for number, (code, is_right) in enumerate(programs.items()):
            works[f"{name} {number}"] = found[name].continued(code)
            expected |= {f"{name} {number}"} if is_right else set()
    with Sandbox(workers=2) as sandbox:
        verdicts = list(
            sandbox.run(Task(name, work, 20.0, LiveCodeBench.limits.memory) for name, work in works.items())
        )
    assert len(verdicts) == len(works)
    assert {verdict.id for verdict in verdicts if verdict.has_passed} == expected


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({}, {"abc1_a", "2888"}),
        ({"after": "2024-05-04"}, {"abc1_a"}),
        ({"after": "2023-08-21", "before": "2024-05-04"}, {"2888"}),
    ],
)
def test_contests_are_chosen_by_date(window: dict[str, Any], expected: set[str], tmp_path: Path) -> None:
    assert problems(write(tmp_path, [READS, METHOD]), **window).keys() == expected


def test_prompts_are_those_of_the_type(tmp_path: Path) -> None:
    found = problems(write(tmp_path, [READS, METHOD]))
    reads, method = (found[name].forms for name in ("abc1_a", "2888"))
    assert reads["base"].prompt.endswith("### Question\nPrint half of each number.\n\n### Answer\n\n")
    assert "write the answer to stdout" in reads["chat"].turns[1][1]
    assert f"### Starter Code\n{METHOD['starter_code']}" in method["base"].prompt
    assert f"```python\n{METHOD['starter_code']}\n```" in method["chat"].turns[1][1]


class Dangerous:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


@pytest.mark.parametrize("value", [Dangerous(), ["a"]])
def test_a_pickle_with_anything_but_a_text_is_refused_and_not_run(
    value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        kdtool.UsageError, match=r"line 1: private_test_cases: its pickle contains.*expected JSON.*give one"
    ):
        problems(write(tmp_path, [READS | {"private_test_cases": packed(value)}]))
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"private_test_cases": "%"}, r"private_test_cases: .*expected JSON, or base64"),
        ({"contest_date": "soon"}, r"contest_date is 'soon'; expected a date"),
        ({"private_test_cases": cases("functional", ("1", "1"))}, r"has no tests, or of both types"),
        (
            {"public_test_cases": "[]", "private_test_cases": cases("functional", ("1", "1"))},
            r"metadata has no func_name",
        ),
    ],
)
def test_another_form_is_refused_with_the_line(change: dict[str, str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=rf"livecodebench\.file: .*line 1: {expected}"):
        problems(write(tmp_path, [READS | change]))
