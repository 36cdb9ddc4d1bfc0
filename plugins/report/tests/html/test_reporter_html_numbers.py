"""Formatting of numbers and of the names of subjects."""

from __future__ import annotations

import pytest
from kdtool_report.html.wording import count, difference, duration, interval, quantity, tick, title


@pytest.mark.parametrize(
    ("value", "unit", "spread", "text"),
    [
        (12.0834, "per token", 0.4, "12.08"),
        (12.0834, "per token", None, "12.1"),
        (0.581, "fraction", 0.031, "58.1 %"),
        (58.1, "%", None, "58.1 %"),
        (134_515_008, "parameters", None, "135 M"),
        (999_600, "bytes", None, "1.00 MB"),
        (7, "bytes", None, "7 B"),
        (0.0891, "s", None, "89.1 ms"),
        (561, "s", None, "9 min 21 s"),
        (7300, "s", None, "2 h 01 min"),
        (-0.0001, "", 1.0, "0.0"),
        (float("nan"), "", None, "not a number"),
        (float("-inf"), "", None, "−∞"),
        (1.3e52, "per token", None, "1.30e+52"),
    ],
)
def test_quantities(value: float, unit: str, spread: float | None, text: str) -> None:
    assert quantity(value, unit, spread=spread).replace("\u00a0", " ") == text


def test_differences_carry_a_sign_and_shared_units_are_said_once() -> None:
    assert difference(-0.185, "per token", relative=True, spread=0.05) == "−18.5\u00a0%"
    assert difference(0.053, "fraction", relative=False, spread=0.03) == "+5.3\u00a0points"
    assert interval(0.55, 0.61, "fraction") == "55.0 to 61.0\u00a0%"
    assert interval(900e3, 1.2e6, "bytes") == "900\u00a0kB to 1.20\u00a0MB"
    assert tick("+20.0\u00a0%") == "+20\u00a0%"
    assert tick("200") == "200"
    assert tick("+1.00e+50\u00a0%") == "+1e+50\u00a0%"
    assert difference(float("inf"), "fraction", relative=True) == "+∞"
    assert difference(4e49, "per token", relative=True, spread=float("inf")) == "+4.00e+51\u00a0%"
    assert count(49152) == "49\u202f152"
    assert duration(0) == "0\u00a0ms"


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("samples.distinct-words", "Samples: distinct words"),
        ("bits-per-byte", "Bits per byte"),
        ("pass@0.5", "Pass@0.5"),
        ("kl-to-teacher", "KL to teacher"),
        ("top-1-agreement", "Top-1 agreement"),
    ],
)
def test_headings_set_the_evaluator_off_and_keep_numbers_and_short_names(name: str, heading: str) -> None:
    assert title(name) == heading
