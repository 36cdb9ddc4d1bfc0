"""Exported files are measured beside the student, with the memory of the programs that run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow


def test_the_report_says_what_a_gguf_file_saves(recipe: dict[str, Any]) -> None:
    kept = {key: recipe[key] for key in ("name", "teacher", "student", "corpus", "rows", "signals", "trainer", "train")}
    results = kdtool.run(
        {
            **kept,
            "seeds": [0],
            "exporters": {"gguf": {"type": "q8_0"}},
            "evaluators": {"perplexity": {"documents": 4}, "efficiency": {"turns": 1, "context": 256}},
        }
    )
    found = {one.subject: one for one in results.measurements if one.name == "resident-memory"}
    assert found["student-gguf"].settings["program"] == "exporters.gguf"
    assert found["student"].settings["program"].startswith("transformers, ")
    assert {one.settings["context"] for one in found.values()} == {"256 tokens"}
    assert 1e7 < found["student-gguf"].value < found["student"].value, "llama.cpp is smaller than torch"
    report = (Path(results.folder) / "report.html").read_text(encoding="utf-8")
    assert "of the memory at a context of 256 tokens, measured otherwise (program)." in report
