"""The tracker of the page `docs/profile.md` on a real run: a trace of each training, and the same weights to the bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kdtool
import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "profile.md"

pytestmark = pytest.mark.slow


def test_a_trace_of_training_changes_no_weight(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = re.search(r"```python\n# file: profiler.py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    Path("profiler.py").write_text(found[1], encoding="utf-8")
    left_out = {"signals", "control", "evaluators"}  # without recorded signals the teacher runs alongside the student
    short = {key: value for key, value in recipe.items() if key not in left_out}
    plain = kdtool.run(short, store="plain")
    tracker = {"use": "./profiler.py:Profiler", "wait": 1, "traced": 2}
    traced = kdtool.run({**short, "name": "traced", "trackers": {"profiler": tracker}}, store="traced")
    assert _weights(traced.folder) == _weights(plain.folder)
    (trace,) = (traced.folder / "traces").iterdir()
    names = {event.get("name") for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]}
    assert {"ProfilerStep#2", "ProfilerStep#3", "teacher.kdtool_signal", "_ChunkedHead", "aten::mm"} <= names


def _weights(folder: Path) -> dict[str, bytes]:
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("model.safetensors")}
    assert found
    return found
