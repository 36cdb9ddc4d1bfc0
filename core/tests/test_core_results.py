"""Finished runs in a command or a line of Python: shown, loaded and listed."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._api import report
from kdtool._cli import call
from kdtool._results.files import write_results


@pytest.fixture
def done(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kdtool.Results:
    # a clone may be in the user's: its paths are shortened where they are stored
    monkeypatch.setenv("HOME", str(tmp_path))
    return kdtool.run(recipe)


def _compared(against: str, verdict: Any, measurement: str = "nats", arm: str = "student") -> kdtool.Comparison:
    return kdtool.Comparison(measurement, arm, against, 1.0, 2.0, -1.0, -2.0, -0.5, False, verdict, 1, 9)


def test_show_prints_figures_verdict_requirements_and_the_student(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    done = kdtool.run({**recipe, "require": {"nats.nats": "< 100"}})
    capsys.readouterr()
    assert call(["show", "toy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"○ {done.outcome}"
    assert re.split("  +", lines[3])[0] == "nats ↓, nats/byte"
    assert "✓ met: require nats.nats < 100, is 3.968" in "\n".join(lines)
    assert f"student, seed 1: {done.folder / done.arms[1].path}" in lines
    (row,) = (line for line in lines if line.startswith("json "))
    kind, size, *_, path = re.split("  +", row)
    assert (kind, path) == ("json", str(done.folder / "exports" / "export.json"))
    assert size == f"{done.arms[0].artifacts[0].bytes} B"
    assert f"report: {done.report}" in lines
    assert call(["show", str(done.folder), "--all"]) == 0
    assert done.verdict in capsys.readouterr().out


def test_show_compares_exported_files_with_the_student(
    done: kdtool.Results, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _compared("teacher", "worse", arm="student-json")
    write_results(replace(done, comparisons=(other, _compared("student", "better", arm="student-json"))))
    (file,) = kdtool.load("toy").exported_files()
    assert (file.artifact.format, file.arm, list(file.comparisons)) == ("json", "student-json", ["nats"])
    capsys.readouterr()
    assert call(["show", "toy"]) == 0
    assert "  -1.0 (-2.0 to -0.5)  " in capsys.readouterr().out


def test_a_loaded_run_is_as_it_was_returned(done: kdtool.Results) -> None:
    assert kdtool.load("toy") == kdtool.load(done.folder) == done
    assert report("toy") == done.report
    assert call(["report", "toy"]) == 0
    assert kdtool.load("toy").arms[0].path.is_absolute()


@pytest.mark.parametrize("command", ["show", "report", "eval"])
def test_a_wrong_name_is_answered_with_those_that_there_are(
    command: str, done: kdtool.Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([command, "tyo"]) == 2
    assert "did you mean 'toy'?" in capsys.readouterr().err
    assert call([command, "zzz"]) == 2
    assert "there are: toy" in capsys.readouterr().err
    (done.folder / "results.json").unlink()
    for name in ("toy", str(done.folder)):
        assert call([command, name]) == 2
        assert "is not finished" in " ".join(capsys.readouterr().err.split())


def test_results_are_small_in_a_notebook_and_a_data_frame_on_demand(
    done: kdtool.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repr(done) == f"<Results of 'toy': {done.outcome}; 8 measurements, in {done.folder}>"
    shown = replace(done, name="<b>")._repr_html_()
    assert "<b>&lt;b&gt;</b>" in shown
    assert "<tr><th>subject</th><th>nats ↓</th></tr>" in shown
    pandas = pytest.importorskip("pandas")
    frame = done.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.set_index("arm").value["student"] == done.values[1].value
    assert list(replace(done, values=()).to_dataframe().columns) == list(frame.columns)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(kdtool.UsageError, match="pip install pandas"):
        done.to_dataframe()


def test_runs_are_found_by_pattern(
    done: kdtool.Results, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = kdtool.run({**recipe, "name": "other", "control": False}, out="elsewhere").folder
    (other / "results.json").unlink()
    capsys.readouterr()
    assert call(["runs"]) == 0
    head, last, first = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "state", "age", "main", "result"]
    assert last.split()[:2] == ["other", "unfinished"]
    assert last.endswith(f"  in {other}")
    assert re.fullmatch(
        r"toy +done +\d+ s +nats: student 3.968, control 4.234, .* +not judged against control .*", first
    )
    for arguments in (["to"], ["t*y"], ["toy"]):
        assert call(["runs", *arguments]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["name", "toy"]
    assert [run.name for run in kdtool.runs("oth")] == ["other"]
    assert call(["runs", "nothing"]) == 0
    assert "no such runs" in capsys.readouterr().out
