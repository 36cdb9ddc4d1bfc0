"""A whole run whose models complete lines and tokens: all arms are asked the same, compared pair by pair, and asked once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow

CODES = [f"<s> import m{i} <EOL> def f{i} ( x ) : <EOL> return x + {i} </s>" for i in range(4)]
LINES = [{"input": f"<s> import m{i} <EOL> def f{i}", "gt": "( x ) :"} for i in range(4)]


def test_every_arm_completes_the_same_lines_and_is_compared(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("\n".join(CODES), encoding="utf-8")
    (tmp_path / "test.json").write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    recipe["evaluators"] = {
        "line-completion": {"documents": 3, "places": 2, "maximum_tokens": 8},
        "codexglue": {"line_completion": "test.json", "token_completion": "test.txt"},
    }
    results = kdtool.run(recipe)
    names = {
        "line-completion.exact-match",
        "line-completion.edit-similarity",
        "codexglue.python.line.exact-match",
        "codexglue.python.line.edit-similarity",
        "codexglue.python.token-accuracy",
    }
    subjects = {subject.name for subject in results.subjects}
    assert {"teacher", "student", "student-safetensors"} < subjects
    assert {(found.name, found.subject) for found in results.measurements} == {
        (name, subject) for name in names for subject in subjects
    }
    values = {(found.name, found.subject): found.value for found in results.measurements}
    for name in names:
        assert values[name, "student"] == values[name, "student-safetensors"]
        pairs = {(one.arm, one.against) for one in results.comparisons if one.measurement == name}
        assert ("student", "control") in pairs
    again = kdtool.run(recipe)
    assert all(stage.reused for stage in again.stages)
    (tmp_path / "test.txt").write_text("\n".join(CODES[:3]), encoding="utf-8")
    changed = {stage.name for stage in kdtool.run(recipe).stages if not stage.reused}
    assert changed, "another file is measured anew"
    assert all("codexglue" in name for name in changed)
