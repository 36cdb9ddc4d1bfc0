"""The verdict is kdtool's: the page and the terminal show it in the same words, and name runs as they are called."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._results.files import write_results
from kdtool_report.html.page import page
from kdtool_testing import empty_results

LIKE: Any = {"measurement": "kl-to-teacher", "verdict": "better", "aside": "likeness to the teacher"}
OPEN: Any = {"verdict": "no evidence of a difference"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([{}], "better than control in perplexity"),
        ([OPEN], "not shown to differ from control in perplexity"),
        ([{"items": 5, **OPEN}], "not judged against control in perplexity, with fewer than 12 items"),
        (
            [OPEN, LIKE],
            "not shown to differ from control in perplexity; "
            "better than control in likeness to the teacher (not an ability)",
        ),
        ([{"against": "teacher"}], "not compared with a control"),
    ],
)
def test_the_page_and_the_terminal_have_one_verdict(
    fields: list[dict[str, Any]], words: str, sample: kdtool.Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(one for one in sample.comparisons if one.measurement == "perplexity" and one.against == "control")
    compared = tuple(dataclasses.replace(first, **{"verdict": "better", **each}) for each in fields)
    results = dataclasses.replace(sample, comparisons=compared, folder=tmp_path, verdict="Add `control: true`.")
    write_results(results)
    assert call(["show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out.partition("\n")[0]
    assert shown[2:] == words
    assert shown[0] == ("▲" if words.startswith("better") else "○")
    html = page(results)
    assert f'<p class="verdict">{words}</p>' in html
    assert "Add <code>control: true</code>." in html


def _comparison(*runs: str) -> kdtool.Results:
    """Return a comparison of runs as `kdtool compare` gives it to the reporter."""
    subjects = tuple(kdtool.Subject(f"{run}/student", "student", None, 0, arm=f"{run}/student") for run in runs)
    measured = tuple(kdtool.Measurement("loss", each.name, "nats", 2.0, 164, False, 1.9, 2.1) for each in subjects)
    values = tuple(kdtool.ArmValue(each.arm, "loss", "nats", False, 2.0, 1.9, 2.1, 2) for each in subjects)
    arm, against = runs
    one = kdtool.Comparison(
        "loss", arm, against, 2.0, 2.0, 0.0, -0.1, 0.1, False, "no evidence of a difference", 2, 164
    )
    return dataclasses.replace(
        empty_results(Path("x")), measurements=measured, subjects=subjects, values=values, comparisons=(one,)
    )


@pytest.mark.parametrize("name", ["base", "student", "control", "reference", "teacher"])
def test_a_run_of_any_name_keeps_it_and_its_page_has_no_empty_rooms(name: str) -> None:
    html = page(_comparison("tv", name))
    assert f'<td data-label="Second">{name}</td>' in html
    assert "n = 164" in html
    first, second = sorted(("tv/student", f"{name}/student"))
    scores = f"|  | n | {first} | {second} |\n| --- | --- | --- | --- |\n| Loss nats | 164 | 2.00 (1.90 to 2.10) | 2.00"
    assert scores in html
    empty_rooms = ("No ", "Not recorded", "None recorded", "Not measured", "Nothing was exported", 'id="training"')
    for empty in ("distillation", "took", "One seed", *empty_rooms):
        assert empty not in html, empty
    assert "Means over 2 seeds" in html
