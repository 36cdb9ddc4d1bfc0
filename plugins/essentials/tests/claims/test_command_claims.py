"""`kdtool claims`: a claim next to the run's own figure, from a recipe, from a run, and before there is a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import kdtool
import pytest
import yaml
from kdtool._cli import call
from kdtool._results.files import write_results
from kdtool_essentials.claims import claims, compare_claims
from kdtool_testing import CommandConformance, make_results

CLAIM: dict[str, Any] = {"measurement": "humaneval.pass@1", "value": 0.4, "source": "the paper"}
VALUE = kdtool.ArmValue("student", "humaneval.pass@1", "fraction", True, 0.5, 0.45, 0.55, 1)


class TestClaims(CommandConformance):
    command = claims
    entry_point = "claims"


@pytest.mark.parametrize(
    ("changes", "own", "outcome"),
    [
        ({"value": 0.4}, "40 % (45–55)", "met"),
        ({"value": 0.36, "low": 0.3, "high": 0.45}, "36 % (30–45)", "not shown"),
        ({"value": 0.31, "low": 0.25, "high": 0.37}, "31 % (25–37)", "missed"),
        ({"value": 0.31, "low": None}, "31.0 %", "missed"),
        ({"higher_is_better": False}, "50 % (45–55)", "missed"),
        ({"arm": "base"}, "–", "not measured"),
    ],
)
def test_a_claim_is_met_by_a_value_as_good(changes: dict[str, Any], own: str, outcome: str) -> None:
    (row,) = compare_claims({"claims": [CLAIM]}, [dataclasses.replace(VALUE, **changes)])
    assert (row[0], row[2:]) == ("humaneval.pass@1 of student", [own, outcome, "the paper"])


def test_it_reads_a_recipe_without_and_with_a_run_and_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = {"corpus": "c", "rows": "r", "student": "s", "trainer": "t", "train": {"losses": {"ce": {}}, "steps": 1}}
    Path("small.yaml").write_text(yaml.safe_dump({**recipe, "claims": [CLAIM]}), encoding="utf-8")
    made = dataclasses.replace(make_results(Path("runs/small")), values=(VALUE,), recipe={"claims": [CLAIM]})
    for named, shown in (("small.yaml", "small is not a finished run"), ("small.yaml", "50 % ("), ("small", "50 % (")):
        assert call(["claims", named]) == 0
        assert shown in capsys.readouterr().out
        Path("runs/small").mkdir(parents=True, exist_ok=True)
        write_results(made)
    write_results(dataclasses.replace(made, recipe={}))
    assert call(["claims", "small"]) == 2
    assert "add published figures to the recipe" in capsys.readouterr().err
