"""Questions are read with their mistakes named; answers are scored as worked by hand, programs in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_answers_match import AnswersMatch
from kdtool_evaluator_answers_match._questions import Question, read_questions, score
from kdtool_programs import Sandbox, SandboxError
from kdtool_testing import EvaluatorConformance, OneRuntime, ScriptedRuntime, make_run

SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)
QUESTIONS: list[dict[str, Any]] = [
    {"prompt": "2 + 3 =", "expected": "5"},
    {"prompt": "2 + 2 =", "expected": ["4", "four"], "id": "sum"},
    {"prompt": "A colour:", "expected": ["red", "blue"], "metric": "contains"},
    {"prompt": "The year:", "expected": r"\b19\d\d\b", "metric": "regex"},
    {"prompt": "import numpy as", "expected": "np", "metric": "edit-similarity"},
]
PROGRAMS: list[dict[str, Any]] = [
    {"prompt": "def add(a, b):\n", "expected": "assert add(2, 3) == 5", "metric": "runs-in-sandbox"},
    {"prompt": "def sub(a, b):\n", "expected": "assert sub(2, 3) == -1", "metric": "runs-in-sandbox"},
]


def write(folder: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    file = folder / "qa.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


class TestAnswersMatch(EvaluatorConformance):
    component = AnswersMatch
    entry_point = "answers-match"
    settings: ClassVar = {"file": "qa.jsonl"}

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        return {"file": str(write(folder, QUESTIONS)), "maximum_tokens": 8}

    def nothing_to_measure(self, folder: Path) -> Iterator[Mapping[str, Any]]:
        yield {"file": str(write(folder, []))}


def answer_from(answers: Mapping[str, str]) -> ScriptedRuntime:
    """Return a runtime that answers prompts from a table, others with nothing."""
    return ScriptedRuntime(lambda request: answers.get(request.prompt or request.turns[-1][1], ""))


def evaluate(
    folder: Path, records: Sequence[Mapping[str, Any]], runtime: kdtool.Runtime, **settings: Any
) -> dict[str, kdtool.Measurement]:
    evaluator = AnswersMatch(AnswersMatch.Config(file=write(folder, records), **settings))
    run = make_run(folder, {"any": OneRuntime(runtime)})
    assert evaluator.kdtool_check(run, "text") == ()
    return {found.name: found for found in evaluator.kdtool_evaluate(run, [SUBJECT])}


@pytest.mark.parametrize(
    ("metric", "expected", "answer", "value"),
    [
        ("exact", ("5",), " 5\n", 1),
        ("exact", ("four", "4"), "4", 1),
        ("contains", ("red", "blue"), "It is Red.", 0),
        ("regex", (r"\b19\d\d\b",), "in 1945.", 1),
        ("regex", (r"^19",), "in 1945", 0),
        ("edit-similarity", ("abcd",), "abxd", 2 * 3 / 8),
        ("edit-similarity", ("abcd", "abxd "), " abxd", 1),
    ],
)
def test_scores_are_those_worked_by_hand(metric: Any, expected: tuple[str, ...], answer: str, value: float) -> None:
    assert score(Question("1", "?", expected, metric), answer) == pytest.approx(value)


def test_each_metric_is_a_measurement_with_its_questions_as_items(tmp_path: Path) -> None:
    runtime = answer_from({"2 + 3 =": "5", "A colour:": " blue", "The year:": " 1945", "import numpy as": " n"})
    found = evaluate(tmp_path, QUESTIONS, runtime)
    values = {name: (one.value, one.n) for name, one in found.items()}
    assert values == {
        "answers-match.exact": (0.5, 2),
        "answers-match.contains": (1, 1),
        "answers-match.regex": (1, 1),
        "answers-match.edit-similarity": (pytest.approx(2 / 3), 1),
    }
    exact = found["answers-match.exact"]
    assert exact.items is not None
    rows = [json.loads(line) for line in exact.items.read_text("utf-8").splitlines()]
    assert [row["item"] for row in rows] == ["1", "sum"]
    assert rows[1]["shown"]["expected"] == "4\nfour"
    assert {request.stop for request in runtime.asked} == {("\n",)}


def test_the_form_and_the_stops_reach_the_subject(tmp_path: Path) -> None:
    runtime = answer_from({"2 + 3 =": "5"})
    assert evaluate(tmp_path, QUESTIONS[:1], runtime, form="chat")["answers-match.exact"].value == 1
    assert evaluate(tmp_path / ".", QUESTIONS[:1], runtime, stop=("!",))
    (chat, *_) = runtime.asked
    assert (chat.prompt, chat.turns, chat.stop) == ("", (("user", "2 + 3 ="),), ())


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "?", "expected": "5", "metric": "equal"}, r"line 1: metric is 'equal'; use one of exact, contains"),
        ({"prompt": "?", "expected": 5}, r"line 1: expected must be a text or a list of texts"),
        ({"prompt": "?", "answer": "5"}, r"unknown field 'answer'"),
        ({"prompt": "?", "expected": "(", "metric": "regex"}, r"not a pattern of Python's re"),
        ({"prompt": "?", "expected": "assert", "metric": "runs-in-sandbox"}, r"not Python statements"),
        ({"prompt": "?", "expected": "5", "id": [1]}, r"id must be a text or a number"),
    ],
)
def test_a_line_that_is_not_a_question_is_named(record: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        read_questions(write(tmp_path, [record]), "exact")


def test_an_id_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": "?", "expected": "5", "id": 1},
        {"prompt": "!", "expected": "5", "id": "1"},
    ]
    with pytest.raises(kdtool.UsageError, match="line 2: the id '1' appears twice"):
        read_questions(write(tmp_path, records), "exact")


def test_the_sandbox_is_asked_about_only_where_a_question_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdtool_programs.missing", lambda: ["no bubblewrap"])
    for records, expected in ((QUESTIONS, ()), (PROGRAMS, ["no bubblewrap"])):
        evaluator = AnswersMatch(AnswersMatch.Config(file=write(tmp_path, records)))
        assert evaluator.kdtool_check(make_run(tmp_path), "start") == expected


def test_programs_are_run_under_their_tests(tmp_path: Path) -> None:
    try:
        with Sandbox():
            pass
    except SandboxError:
        pytest.skip("no sandbox on this machine")
    runtime = answer_from({"def add(a, b):\n": "    return a + b\n", "def sub(a, b):\n": "    return a + b\n"})
    (found,) = evaluate(tmp_path, PROGRAMS, runtime).values()
    assert (found.name, found.value, found.n) == ("answers-match.runs-in-sandbox", 0.5, 2)
    assert found.items is not None
    assert "passed" in found.items.read_text("utf-8")
    chat = {"def add(a, b):\n": "Sure:\n```python\ndef add(a, b):\n    return a + b\n```\n"}
    other = tmp_path / "chat"
    other.mkdir()
    (found,) = evaluate(other, PROGRAMS, answer_from(chat), form="chat").values()
    assert found.value == 0.5
