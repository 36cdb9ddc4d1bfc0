"""The spans are the published ones, their solutions pass, and models are asked by their FIM tokens."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_infilling import Infilling, problems_of
from kdtool_programs import Module, Problem, Program
from kdtool_testing import EvaluatorConformance, OneRuntime, ScriptedRuntime, make_run
from kdtool_testing.sandbox import find_failures, sandbox_is_there

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "humaneval-infilling"
FILES = {"single-line": "SingleLine", "multi-line": "MultiLine"}
COUNTS = {"single-line": 1033, "multi-line": 5815}
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="HumanEval-Infilling is not here")


needs_sandbox = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")


@needs_sandbox
class TestInfilling(EvaluatorConformance):
    component = Infilling
    entry_point = "infilling"
    settings: ClassVar[dict[str, Any]] = {"limit": 3, "maximum_tokens": 32}


def published(span: str) -> Path:
    return DATA / f"HumanEval-{FILES[span]}Infilling.jsonl.gz"


def problems(span: str, folder: Path) -> list[Problem]:
    return list(Infilling(Infilling.Config(spans=(span,))).problems(make_run(folder)))  # type: ignore[arg-type]


@needs_data
@pytest.mark.parametrize("span", COUNTS)
def test_the_spans_are_those_of_the_published_file(span: str, tmp_path: Path) -> None:
    found = problems(span, tmp_path)
    with gzip.open(published(span), "rt", encoding="utf-8") as lines:
        expected = [json.loads(line) for line in lines]
    assert len(found) == len(expected) == COUNTS[span]
    for one, record in zip(found, expected, strict=True):
        form, work = one.forms["base"], one.continued(one.solution)
        assert (one.id, form.prompt, form.suffix) == (record["task_id"], record["prompt"], record["suffix"])
        assert one.solution == record["canonical_solution"]
        assert isinstance(work, Module)
        assert work.source == record["prompt"] + record["canonical_solution"] + record["suffix"]
        assert work.tests.startswith(record["test"])


def solved(found: list[Problem]) -> dict[str, Module | Program]:
    return {one.id: one.continued(one.solution) for one in found}


@needs_sandbox
def test_solutions_of_a_few_gaps_pass_and_wrong_code_fails(tmp_path: Path) -> None:
    found = [one for span in ("single-line", "multi-line") for one in problems(span, tmp_path)[::97]]
    assert find_failures(solved(found)) == set()
    assert find_failures({one.id: one.continued("    raise ValueError\n") for one in found}) == {
        one.id for one in found
    }


@needs_sandbox
@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("span", COUNTS)
def test_all_solutions_pass(span: str, tmp_path: Path) -> None:
    assert find_failures(solved(problems(span, tmp_path))) == set()


def test_an_answer_to_a_gap_of_a_line_ends_with_the_line(tmp_path: Path) -> None:
    one = problems("single-line", tmp_path)[0]
    assert one.forms["base"].stop == ("\n",)
    works = [one.continued(code) for code in ("x = 1", "x = 1\n", "x = 1\nprint(2)\n")]
    assert len({work.source for work in works if isinstance(work, Module)}) == 1
    several = problems("multi-line", tmp_path)[0]
    assert several.forms["base"].stop == ()
    work = several.continued("x = 1\ny = 2\n")
    assert isinstance(work, Module)
    assert "x = 1\ny = 2\n" in work.source


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_the_parser_ends_them(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"    x = '\x0c\x1c\x85\u2028'{end}", f"    return x{end}"]
    record = {
        "task_id": "a",
        "prompt": "def f():\n",
        "entry_point": "f",
        "test": "",
        "canonical_solution": "".join(lines),
    }
    monkeypatch.setattr("kdtool_evaluator_infilling._human_eval", lambda: {"a": record})
    assert [one.solution for one in problems_of("single-line")] == lines


@needs_sandbox
def test_a_model_that_fills_every_gap_passes_all(tmp_path: Path) -> None:
    evaluator = Infilling(Infilling.Config(spans=("single-line", "multi-line"), limit=5))
    known = {
        (one.forms["base"].prompt, one.forms["base"].suffix): one.solution
        for one in evaluator.problems(make_run(tmp_path))
    }

    class Filling(ScriptedRuntime):
        abilities = frozenset[kdtool.Ability]({"infill"})

    runtime = Filling(
        lambda request: (
            known[request.prompt, request.suffix].rstrip("\n")
            if request.stop
            else known[request.prompt, request.suffix]
        )
    )
    run = make_run(tmp_path, {"opener": OneRuntime(runtime)})
    found = {one.name: one for one in evaluator.kdtool_evaluate(run, [kdtool.Subject("student", "student", tmp_path)])}
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "infilling.single-line.pass@1": (1.0, 5), "infilling.multi-line.pass@1": (1.0, 5),
    }  # fmt: skip
    assert set(evaluator.measurements) >= set(found)


def test_a_model_without_marks_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Continuing(kdtool.Runtime):
        abilities = frozenset[kdtool.Ability]({"continue"})

        def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
            raise AssertionError("it cannot fill a span")

    evaluator = Infilling(Infilling.Config(limit=2))
    run = make_run(tmp_path, {"opener": OneRuntime(Continuing())})
    assert not list(evaluator.kdtool_evaluate(run, [kdtool.Subject("student", "student", tmp_path)]))
    assert "student is left out, it cannot infill, because its tokenizer has no FIM tokens" in capsys.readouterr().out
