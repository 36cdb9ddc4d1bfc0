"""Exported files beside the student: a row of figures each, and a sentence on what each costs and saves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool_report.html.exports import Exports, exports
from kdtool_report.html.page import page
from kdtool_report.html.wording import Subjects

Verdict = Literal["better", "worse", "no evidence of a difference"]
FILES = {"Q4_K_M": Path("out/run-q4_k_m.gguf"), "Q8_0": Path("out/run-q8_0.gguf")}
ARMS = {"Q4_K_M": "student-q4", "Q8_0": "student-q8"}
SPACE = "\u00a0"


def _measured(name: str, subject: str, unit: str, value: float, **settings: str) -> kdtool.Measurement:
    higher = unit in ("fraction", "tokens/s")
    return kdtool.Measurement(name, subject, unit, value, 164, higher, settings=settings)


def _compared(
    arm: str, name: str, difference: tuple[float, float, float], verdict: Verdict, *, relative: bool = False
) -> kdtool.Comparison:
    return kdtool.Comparison(name, arm, "student", 0.5, 0.5, *difference, relative, verdict, 1, 164)


WORSE = _compared("student-q4", "humaneval.pass@1", (-0.013, -0.024, -0.002), "worse")
OPEN = _compared("student-q8", "humaneval.pass@1", (0.003, -0.01, 0.016), "no evidence of a difference")
PERPLEXITY = _compared("student-q4", "perplexity", (0.031, 0.028, 0.034), "worse", relative=True)
MEMORY = [
    _measured("resident-memory", "student", "bytes", 1e9, context="4096 tokens", read="4096", program="one"),
    _measured("resident-memory", "student-q4", "bytes", 3e8, context="4096 tokens", read="3970", program="one"),
]
SCORES = [_measured("humaneval.pass@1", arm, "fraction", 0.5) for arm in ("student", *ARMS.values())]
SCORES += [_measured("perplexity", arm, "per token", 5.0) for arm in ("student", "student-q4")]
SIZES = [_measured("file-size", arm, "bytes", size) for arm, size in {"student": 8e8, "student-q8": 4e8}.items()]
SPEED = [_measured("decode-speed", "student-q4", "tokens/s", 42.0, timed="answers")]
SPEED += [_measured("decode-speed", "student", "tokens/s", 21.0, timed="passes")]


def _results(
    sample: kdtool.Results, comparisons: list[kdtool.Comparison], measurements: list[kdtool.Measurement]
) -> kdtool.Results:
    made = tuple(kdtool.Artifact(path, "gguf", 300_000_000, label) for label, path in FILES.items())
    exported = [kdtool.Subject(arm, "artifact", FILES[label], 0) for label, arm in ARMS.items()]
    return dataclasses.replace(
        sample,
        comparisons=tuple(comparisons),
        measurements=tuple(measurements),
        values=(),
        subjects=(kdtool.Subject("student", "student", None, 0), *exported),
        arms=tuple(dataclasses.replace(arm, artifacts=made) for arm in sample.arms),
    )


def _exports(sample: kdtool.Results, *found: list[Any]) -> Exports:
    results = _results(sample, *found)
    return exports(results, Subjects(results.subjects))


def _sentences(sample: kdtool.Results, *found: list[Any]) -> list[str]:
    """Return the sentences on comparisons and measurements."""
    return [text.replace(SPACE, " ") for text in _exports(sample, *found).sentences]


def test_a_file_has_a_row_with_its_size_quality_speed_and_memory(sample: kdtool.Results) -> None:
    found = _exports(sample, [WORSE, OPEN, PERPLEXITY], [*SCORES, *MEMORY, *SIZES, *SPEED])
    assert found.columns == (
        "Format", "Size", "Humaneval: pass@1", "Perplexity", "Decode speed, tokens/s", "Resident memory",
    )  # fmt: skip
    rows = {file: [" | ".join(cell).replace(SPACE, " ") for cell in cells] for file, cells in found.rows}
    assert rows == {
        "run-q4_k_m.gguf": [
            "gguf Q4_K_M | ",
            "300 MB | ",
            "50.0 % | −1.3 points (−2.4 to −0.2 points)",
            "5.00 | +3.10 % (+2.80 to +3.40 %)",
            "42.0 | 2.00 × the student’s, measured otherwise (timed)",
            "300 MB | 30.0 % of the student’s; context of 4096 tokens",
        ],
        "run-q8_0.gguf": [
            "gguf Q8_0 | ",
            "300 MB | 50.0 % of the student’s",
            "50.0 % | +0.3 points (−1.0 to +1.6 points)",
            *["– | "] * 3,
        ],
    }


def test_a_sentence_says_what_a_file_costs_and_saves(sample: kdtool.Results) -> None:
    assert _sentences(sample, [PERPLEXITY, WORSE, OPEN], [*SCORES, *MEMORY, *SIZES]) == [
        "Q4_K_M costs 1.3 points of humaneval pass@1 (0.2 to 2.4 points) and saves 70.0 % of the memory at a context "
        "of 4096 tokens.",
        "Q8_0: no evidence that it costs humaneval pass@1 (+0.3 points, −1.0 to +1.6 points); it saves 50.0 % of the "
        "bytes.",
    ]


def test_without_scores_a_sentence_is_of_perplexity_and_without_any_of_bytes_alone(sample: kdtool.Results) -> None:
    assert _sentences(sample, [PERPLEXITY], [*SCORES, *SIZES]) == [
        "Q4_K_M raises perplexity by 3.10 % (2.80 to 3.40 %).",
        "Q8_0 saves 50.0 % of the bytes; its quality was not compared with the student’s.",
    ]
    better = dataclasses.replace(WORSE, difference=0.013, low=0.002, high=0.024, verdict="better")
    (sentence,) = _sentences(sample, [better], SCORES)
    assert sentence == "Q4_K_M gains 1.3 points of humaneval pass@1 (0.2 to 2.4 points)."


def test_few_items_say_nothing_about_an_export(sample: kdtool.Results) -> None:
    few = dataclasses.replace(OPEN, items=8)
    (sentence,) = _sentences(sample, [few], [*SCORES, *SIZES])
    assert sentence == "Q8_0 saves 50.0 % of the bytes; its quality was compared on too few items to judge."


def test_page_has_the_section_where_files_were_exported(sample: kdtool.Results) -> None:
    text = page(_results(sample, [WORSE, OPEN], [*SCORES, *MEMORY]))
    assert '<a href="#files">Files</a>' in text
    assert f"Q4_K_M costs 1.3{SPACE}points of humaneval pass@1" in text
    assert "run-q4_k_m.gguf</th>" in text
    none = dataclasses.replace(sample, arms=tuple(dataclasses.replace(arm, artifacts=()) for arm in sample.arms))
    assert 'href="#files"' not in page(none)
