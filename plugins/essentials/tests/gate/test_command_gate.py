"""`kdtool gate` on finished runs: every outcome by its exit code, and the example workflow's own script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import kdtool
import pytest
import yaml
from kdtool._cli import call
from kdtool._results.files import write_results
from kdtool_essentials.gate import decide, gate, write_comment
from kdtool_testing import CommandConformance, make_results

ROOT = Path(__file__).parents[4]
WORKFLOW = ROOT / ".github" / "workflows" / "gate.yml"
Verdict = Literal["better", "worse", "no evidence of a difference"]
SAME: Final = "no evidence of a difference"


class TestGate(CommandConformance):
    command = gate
    entry_point = "gate"


def comparison(measurement: str, against: str, verdict: Verdict) -> kdtool.Comparison:
    """Return a comparison of the student whose interval fits the verdict."""
    low, high = {"better": (-0.2, -0.1), "worse": (0.1, 0.2), SAME: (-0.1, 0.2)}[verdict]
    return kdtool.Comparison(measurement, "student", against, 12, 14, (low + high) / 2, low, high, True, verdict, 2, 64)


def write_run(folder: Path, control: Verdict, base: Verdict = "better", forgotten: Verdict = SAME) -> kdtool.Results:
    """Write a finished run without requirements: a main measurement against control and base, and a guard against base."""
    made = make_results(folder)
    results = replace(
        made,
        subjects=(*made.subjects, kdtool.Subject("base", "base")),
        requirements=(),
        comparisons=(
            comparison("perplexity", "control", control),
            comparison("perplexity", "base", base),
            comparison("perplexity", "teacher", "worse"),
            comparison("other", "control", "worse"),
            comparison("old-skill", "base", forgotten),
        ),
    )
    folder.mkdir(parents=True)
    write_results(results)
    return results


CASES: list[tuple[tuple[Verdict, ...], int]] = [
    (("better",), 0),
    ((SAME,), 11),
    (("better", SAME), 11),
    (("worse",), 12),
    (("better", "worse"), 12),
    (("better", "better", "worse"), 13),
    (("worse", "better", "worse"), 13),
]


@pytest.mark.parametrize(("verdicts", "code"), CASES)
def test_the_exit_code_is_that_of_the_outcome(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdicts: tuple[Verdict, ...],
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "small", *verdicts)
    assert call(["gate", "small", "--guard", "old-skill", "--comment", "gate.md"]) == code
    comment = (tmp_path / "gate.md").read_text(encoding="utf-8")
    assert "| old-skill | base (guard) |" in comment
    assert f"The run's verdict: {kdtool.load('small').outcome}." in comment
    assert capsys.readouterr().out == comment
    for width in (30, 100, 200):  # a line for each cell, tables with and without wrapped cells
        monkeypatch.setattr("kdtool._cli.shared.width_of", lambda _, width=width: width)
        call(["gate", "small", "--guard", "old-skill"])
        shown = capsys.readouterr().out
        assert not re.search(r"[|#`]|---", shown)
        assert set(re.findall(r"[\w.]+", comment)) <= set(re.findall(r"[\w.]+", shown))


def test_too_few_items_are_named(tmp_path: Path) -> None:
    results = write_run(tmp_path / "small", SAME)
    few = tuple(replace(each, items=8) for each in results.comparisons)
    comment = write_comment(decide(replace(results, comparisons=few)))
    assert "The run's verdict: not judged against control in perplexity and other, with fewer than 12 items." in comment
    assert "| 8 | 2 | too few items |" in comment


@pytest.mark.parametrize(("verdicts", "code"), [CASES[0], CASES[5]])
def test_the_workflow_ends_with_the_exit_code_of_the_gate(
    tmp_path: Path, verdicts: tuple[Verdict, ...], code: int
) -> None:
    write_run(tmp_path / "runs" / "candidate", *verdicts)
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["gate"]["steps"]
    script = next(step["run"] for step in steps if step.get("name") == "gate")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GUARD": "old-skill"}
    ended = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, check=False, timeout=120)
    assert ended.returncode == code
    assert (tmp_path / "gate.md").is_file()


def test_a_missed_score_comes_first(tmp_path: Path) -> None:
    results = replace(write_run(tmp_path / "small", "worse"), requirements=make_results(tmp_path).requirements)
    decision = decide(results)
    assert (decision.outcome, decision.exit_code) == ("missed", 6)
    assert decision.missed == ("quality.own-score is -0.25, 0.25 off >= 0",)


def test_json_has_no_infinite_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = write_run(tmp_path / "runs" / "small", SAME)
    write_results(replace(made, comparisons=(replace(made.comparisons[0], high=float("inf")),)))
    assert call(["gate", "small", "--json", "--against", "control"]) == 11
    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert shown["compared"][0]["high"] is None
    assert shown["outcome"] == "not shown"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--on", "nothing"],
            "was not compared with 'control' in 'nothing'; compared were: perplexity against control",
        ),
        (["--guard", "other"], "was not compared with 'base' in 'other'"),
    ],
)
def test_what_was_not_compared_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "small", "better")
    assert call(["gate", "small", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_run_without_an_opponent_is_refused(tmp_path: Path) -> None:
    results = replace(write_run(tmp_path / "small", "better"), comparisons=())
    with pytest.raises(kdtool.UsageError, match="has no control"):
        decide(results)
    with pytest.raises(kdtool.UsageError, match="did not measure"):
        decide(replace(make_results(tmp_path), requirements=()), guards=["perplexity"])
