"""Whole runs that compare: with self-distillation and a reference, by line, and over a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_essentials.gate import decide
from kdtool_essentials.sweep import sweep
from whole_runs import without

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store")]


def test_own_samples_and_a_reference(recipe: dict[str, Any], other_teacher_folder: Path) -> None:
    """The control learns the student's own samples; the reference has another tokenizer."""
    compared = {
        **without(recipe, "exporters", "trackers"),
        "rows": {"use": "packed", "length": 64, "maximum_tokens": 768},
        "control": {"self": {"temperature": 0.7, "top_p": 0.9}},
        "reference": {"use": "causal-lm", "model": str(other_teacher_folder), "dtype": "float32"},
        "evaluators": {"perplexity": {"limit": 8, "characters": 300}},
    }
    planned = {stage.name for stage in kdtool.plan(compared)}
    assert {"rows/self-train", "phases/control-self-seed0-train", "scores/perplexity-reference"} <= planned
    assert "the time to sample as many tokens" in str(kdtool.check(compared))

    results = kdtool.run(compared)
    against = {(pair.against, pair.measurement) for pair in results.comparisons if pair.arm == "student"}
    wanted = {("control-self", "perplexity"), ("control-self", "bits-per-byte"), ("reference", "bits-per-byte")}
    assert against >= wanted
    assert ("reference", "perplexity") not in against, "tokens of another tokenizer"
    different = "perplexity: student and reference are not compared, they were measured in different ways: tokenizer"
    assert different in results.notes
    tuned = "Against the same student tuned on its own samples, on about as many tokens, the distilled student is "
    assert tuned in results.verdict
    assert "Against the reference, an existing model, the distilled student is " in results.verdict
    page = (results.folder / "report.html").read_text(encoding="utf-8")
    for words in ("Self-distilled, equal tokens", "Against the reference, an existing model", "Reference"):
        assert words in page
    gate = [each.against for each in decide(results, ["bits-per-byte"]).compared]
    assert gate == ["control", "control-self", "reference"]
    trained = {arm.arm: arm.phases["train"] for arm in results.arms}
    own = trained["control-self"]
    assert trained["control"].tokens == trained["student"].tokens
    assert own.tokens == pytest.approx(trained["student"].tokens, abs=own.tokens / own.steps)


CODES = [f"<s> import m{i} <EOL> def f{i} ( x ) : <EOL> return x + {i} </s>" for i in range(4)]
LINES = [{"input": f"<s> import m{i} <EOL> def f{i}", "gt": "( x ) :"} for i in range(4)]


def test_every_arm_completes_the_same_lines_and_is_compared(recipe: dict[str, Any]) -> None:
    Path("test.txt").write_text("\n".join(CODES), encoding="utf-8")
    Path("test.json").write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    recipe["evaluators"] = {
        "line-completion": {"limit": 3, "places": 2, "maximum_tokens": 8},
        "codexglue": {"line_completion": "test.json", "token_completion": "test.txt"},
    }
    results = kdtool.run(recipe)
    lines = [f"{of}.{what}" for of in ("line-completion", "codexglue.python.line") for what in METRICS]
    names = {*lines, "codexglue.python.token-accuracy"}
    subjects = {subject.name for subject in results.subjects}
    assert {"teacher", "student", "student-safetensors"} < subjects
    measured = {(found.name, found.subject): found.value for found in results.measurements}
    assert measured.keys() == {(name, subject) for name in names for subject in subjects}
    for name in names:
        assert measured[name, "student"] == measured[name, "student-safetensors"]
        pairs = {(one.arm, one.against) for one in results.comparisons if one.measurement == name}
        assert ("student", "control") in pairs
    assert {stage.action for stage in kdtool.plan(recipe)} == {"reuse"}
    Path("test.txt").write_text("\n".join(CODES[:3]), encoding="utf-8")
    changed = {stage.name for stage in kdtool.plan(recipe) if stage.action != "reuse"}
    assert changed, "another file is measured again"
    assert all("codexglue" in name for name in changed)


METRICS = ("exact-match", "edit-similarity")


def test_a_sweep_pays_the_teacher_once_and_puts_everything_into_one_table(recipe: dict[str, Any]) -> None:
    evaluators = {key: recipe["evaluators"][key] for key in ("perplexity", "agreement")}
    swept = {**without(recipe, "exporters"), "control": "tokens", "evaluators": evaluators}
    found = sweep(swept, {"trainer.learning_rate": ["1e-2", "1e-5"]}, {"seeds": [0, 1], "train.steps": 8})
    first, second = (point.results for point in found.points)
    assert first is not None
    assert second is not None
    reused = {stage.name.partition("/")[0] for stage in second.stages if stage.reused}
    assert reused >= {"text", "rows", "students", "signals"}
    stages = [stage for run in (first, second) for stage in run.stages]
    assert len({stage.fingerprint for stage in stages if stage.name.startswith("signals")}) == 1

    tables = {table["measurement"]: table for table in found.tables}
    assert tables["perplexity"]["columns"] == ["teacher", "student", "control"]
    assert tables["top-1-agreement-with-teacher"]["higher_is_better"]
    standings = {row["point"]: row["standing"] for row in tables["perplexity"]["rows"]}
    assert standings == {"learning_rate-0_01": "best", "learning_rate-1e-05": "not shown to differ"}  # of two seeds
    assert all(row["cells"]["student"].low is not None for row in tables["perplexity"]["rows"])
    assert "learning_rate-0_01/report.html" in (found.folder / "sweep.md").read_text(encoding="utf-8")
