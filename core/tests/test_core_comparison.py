"""Comparison of arms: the interval is right on simulated arms, and pairs are never torn."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Literal

import kdtool
import pytest
from kdtool import Measurement
from kdtool._run.comparison import compare
from kdtool._run.verdict import verdict


def _measurement(
    path: Path, values: list[tuple[float, float]], transform: Literal["identity", "exp"] = "identity"
) -> Measurement:
    lines = [json.dumps({"item": str(i), "sum": s, "weight": w}) for i, (s, w) in enumerate(values)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Measurement("loss", path.stem, "nats", 0.0, len(values), False, items=path, transform=transform)


def _pair(folder: Path, generator: random.Random, shift: float, seed: int) -> tuple[Measurement, Measurement]:
    hard = [generator.gauss(3, 1) for _ in range(40)]
    student = [(value + shift + generator.gauss(0, 0.1), 1.0) for value in hard]
    control = [(value + generator.gauss(0, 0.1), 1.0) for value in hard]
    return (
        _measurement(folder / f"s{seed}.jsonl", student),
        _measurement(folder / f"c{seed}.jsonl", control),
    )


def test_paired_interval_sees_a_difference_far_below_the_spread_of_items(tmp_path: Path) -> None:
    generator = random.Random(0)
    found = compare("control", [_pair(tmp_path, generator, -0.2, seed) for seed in range(3)])
    assert found.verdict == "better"
    assert -0.3 < found.low < found.difference < found.high < -0.1
    assert (found.seeds, found.items) == (3, 40)
    assert "better in loss" in verdict([found])


def test_no_difference_is_said_in_words_and_worse_is_worse(tmp_path: Path) -> None:
    generator = random.Random(1)
    none = compare("control", [_pair(tmp_path, generator, 0.0, seed) for seed in range(3)])
    worse = compare("control-time", [_pair(tmp_path, generator, 0.3, seed) for seed in range(3)])
    assert none.verdict == "no evidence of a difference"
    assert worse.verdict == "worse"
    text = verdict([none, worse])
    assert "not shown to differ in loss" in text
    assert "worse in loss" in text


def test_interval_covers_the_truth_about_as_often_as_it_says(tmp_path: Path) -> None:
    generator = random.Random(2)
    covered = 0
    for _ in range(60):
        found = compare("control", [_pair(tmp_path, generator, -0.05, seed) for seed in range(1)])
        covered += found.low <= -0.05 <= found.high
    assert 50 <= covered <= 60


def test_perplexities_are_compared_as_ratios(tmp_path: Path) -> None:
    student = _measurement(tmp_path / "s.jsonl", [(10.0, 10.0), (30.0, 20.0)], "exp")
    control = _measurement(tmp_path / "c.jsonl", [(20.0, 10.0), (50.0, 20.0)], "exp")
    found = compare("control", [(student, control)])
    assert found.relative
    assert found.difference == pytest.approx(2.718281828 ** (40 / 30 - 70 / 30) - 1)


def test_arms_without_shared_items_are_refused(tmp_path: Path) -> None:
    one = _measurement(tmp_path / "one.jsonl", [(1.0, 1.0)])
    other = _measurement(tmp_path / "other.jsonl", [(1.0, 1.0)])
    (tmp_path / "other.jsonl").write_text('{"item": "else", "sum": 1, "weight": 1}\n', encoding="utf-8")
    with pytest.raises(kdtool.PluginError, match="shares no items"):
        compare("control", [(one, other)])
