"""Inputs of HumanEval+ tell right programs from wrong ones by a reference, up to rounding."""

from __future__ import annotations

import ast
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from kdtool_programs import Module, Sandbox, Task, against_reference

SECONDS = 120.0


def _shared(name: str) -> list[dict[str, Any]]:
    shared = Path(os.environ.get("KDTOOL_SHARED_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
    path = shared / name
    if not path.exists():
        pytest.skip(f"{path} is not here; KDTOOL_SHARED_DATA says where shared data are")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines()]


def _mutant(source: str) -> str | None:
    """Return the source with one thing changed that its tests should notice: what it returns is returned in a tuple."""
    tree = ast.parse(source)
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value is not None]
    for node in returns:
        assert node.value is not None
        node.value = ast.Tuple([node.value], ast.Load())
    return ast.unparse(ast.fix_missing_locations(tree)) if returns else None


def _plus_task(problem: dict[str, Any], answer: str) -> Task:
    name, inputs = problem["entry_point"], [*problem["base_input"], *problem["plus_input"]]
    reference = problem["prompt"] + problem["canonical_solution"]
    tests = against_reference(reference, name, inputs, problem["atol"])
    return Task(problem["task_id"], Module(answer, tests, (name,)), SECONDS)


def test_inputs_of_humaneval_plus_tell_right_from_wrong(needs_bubblewrap: None) -> None:
    problems = _shared("evalplus/HumanEvalPlus-Mini.jsonl.gz")[:25]
    right = {problem["task_id"]: problem["prompt"] + problem["canonical_solution"] for problem in problems}
    with Sandbox(workers=2) as sandbox:
        verdicts = list(sandbox.run(_plus_task(problem, right[problem["task_id"]]) for problem in problems))
        assert [verdict for verdict in verdicts if not verdict.has_passed] == []
        mutants = {name: mutant for name, source in right.items() if (mutant := _mutant(source))}
        wrong = (
            _plus_task(problem, mutants[problem["task_id"]]) for problem in problems if problem["task_id"] in mutants
        )
        assert [verdict for verdict in sandbox.run(wrong) if verdict.has_passed] == []


def test_reference_allows_for_rounding_of_floats_alone(needs_bubblewrap: None) -> None:
    reference = "def f(x):\n    return [x, float('inf')]\n"
    tests = against_reference(reference, "f", [[0.1 + 0.2], [float("inf")], [[1, (2,)]], [-3]])
    sources = {"rounded": "[x + 1e-7 if type(x) is float else x, float('inf')]", "integer": "[x + 1e-7, float('inf')]"}
    with Sandbox() as sandbox:
        tasks = [
            Task(key, Module(f"def f(x):\n    return {value}\n", tests, ("f",)), SECONDS)
            for key, value in sources.items()
        ]
        assert {verdict.id: verdict.has_passed for verdict in sandbox.run(tasks)} == {"rounded": True, "integer": False}
