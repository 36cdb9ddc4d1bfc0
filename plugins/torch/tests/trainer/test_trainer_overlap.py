"""Overlap of the student's and the teacher's likeliest tokens: its figures, and the verdict on its growth."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_torch.overlap import OVERLAP_FIGURES, overlaps
from kdtool_torch.trainer.loop import TrainingLoop
from kdtool_torch.trainer.verdict import EarlyVerdict, Growth
from torch import Tensor
from trainer_models import MIXTURE, TinyTeacher, interrupted, make_model, make_rows, reports_of, train_terms

STEPS = 200


def chunk_of(logits: Tensor, teacher: kdtool.DenseTokens | kdtool.SparseTokens) -> kdtool.TokenChunk:
    zeros = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    return kdtool.TokenChunk(logits, zeros, teacher, zeros, 1.0, zeros.sum(), zeros.sum())


def by_sets(ours: Sequence[float], theirs: dict[int, float], temperature: float = 1.0) -> list[float]:
    """Return the figures of one position, in float64 and with sets; `theirs` are the teacher's probabilities by id."""
    p = (torch.tensor(ours, dtype=torch.float64) / temperature).softmax(-1).tolist()
    k = min(16, len(theirs))
    first, second = (set(sorted(found, key=lambda i: -found[i])[:k]) for found in (dict(enumerate(p)), theirs))
    both = first & second
    return [len(both) / k, sum(p[i] for i in both), sum(theirs[i] for i in both)]


def test_the_figures_are_those_of_sets_in_float64() -> None:
    torch.manual_seed(0)
    ours, theirs = torch.randn(5, 40) * 2, torch.randn(5, 40) * 2
    dense = overlaps(chunk_of(ours, kdtool.DenseTokens(theirs))).tolist()
    p = theirs.double().softmax(-1).tolist()
    expected = [by_sets(a, dict(enumerate(b))) for a, b in zip(ours.tolist(), p, strict=True)]
    assert dense == [pytest.approx(row, abs=1e-6) for row in expected]
    assert 0.2 < sum(row[0] for row in dense) / 5 < 0.8


def test_recorded_tokens_are_compared_at_their_temperature_and_padding_is_nobodys_token() -> None:
    torch.manual_seed(0)
    ours, weights = torch.randn(3, 40), torch.rand(3, 6) / 10
    ids = torch.stack([torch.randperm(40)[:6] for _ in range(3)]).int()
    ids[2, 4:], weights[2, 4:] = -1, 0.0
    found = overlaps(chunk_of(ours, kdtool.SparseTokens(ids, weights, "top-k", 2.0))).tolist()
    for row in range(3):
        theirs = dict(zip(ids[row].tolist(), weights[row].tolist(), strict=True))
        expected = by_sets(ours[row].tolist(), {**theirs, -2: 0.0} if row == 2 else theirs, 2.0)
        assert found[row] == pytest.approx(expected, abs=1e-6)


def grown(differences: Sequence[float], before: float = 0.5) -> Growth:
    return Growth([[before, 0.9, 0.9]] * len(differences), [[before + d, 0.9, 0.9] for d in differences], 10)


@pytest.mark.parametrize(
    ("differences", "before", "hopeless", "says"),
    [
        ([0.0] * 32, 0.5, True, "did not grow"),
        ([-0.03, -0.01] * 16, 0.5, True, "did not grow"),
        ([0.03, 0.01] * 16, 0.5, False, "it grows"),
        ([0.1, -0.1] * 16, 0.5, False, "too early to tell"),
        ([0.0], 0.5, False, "too early to tell"),
        ([0.0] * 32, 0.95, False, "too early to tell"),
    ],
)
def test_growth_decides_with_its_noise(differences: list[float], before: float, hopeless: bool, says: str) -> None:
    growth = grown(differences, before)
    assert growth.is_hopeless == hopeless
    assert says in growth.describe()


@pytest.mark.parametrize("noise", [0.001, 0.01, 0.1])
def test_a_small_growth_is_seldom_missed_at_any_noise(noise: float) -> None:
    """0.2 points: two standard errors leave 2.5 % of false alarms, with 32 blocks a little more."""
    chance = random.Random(0)
    alarms = sum(grown([chance.gauss(0.002, noise) for _ in range(32)]).is_hopeless for _ in range(2000))
    assert alarms < 0.04 * 2000


def train(folder: Path, until: int = 11, **settings: Any) -> tuple[list[str], TrainingLoop]:
    """Train a student that is a teacher with noise until some step; return what was said, and the loop."""
    student, said, loops = make_model(99), list[str](), list[TrainingLoop]()
    torch.manual_seed(0)
    for weight in student.model.parameters():
        weight.data += 0.3 * torch.randn_like(weight)

    def enough(loop: TrainingLoop, step: int) -> bool:
        loops.append(loop)
        return step == until

    settings = {"batch": 4, "warmup": 0.0, "learning_rate": 1e-2, "checkpoint_every": 3, **settings}
    teacher = TinyTeacher(make_model(99), top_k=settings.pop("top_k", 0))
    given: dict[str, Any] = {"student": student, "teacher": teacher, "steps": STEPS, "rows": make_rows(80)}
    with interrupted(enough):
        train_terms(folder, MIXTURE[:2], say=said.append, **given, **settings)
    return [text for text in said if text.startswith("overlap")], loops[-1]


@pytest.mark.parametrize("top_k", [0, 8])
def test_a_student_that_learns_is_not_flagged(tmp_path: Path, top_k: int) -> None:
    (said,), loop = train(tmp_path, top_k=top_k)
    assert "after step 10" in said
    assert said.endswith("it grows")
    assert not loop.progress.hopeless
    figures = {report["step"]: report["figures"] for report in reports_of(tmp_path)}
    assert [step for step, found in figures.items() if found] == [1, 10]
    assert set(figures[1]) == set(OVERLAP_FIGURES)
    assert all(0 < value < 1 for value in figures[10].values())


def test_a_student_that_does_not_learn_is_flagged_in_the_first_twentieth(tmp_path: Path) -> None:
    (said,), loop = train(tmp_path, learning_rate=1e-12)
    assert "did not grow in the first 5 % of the steps" in said
    assert loop.progress.hopeless == said


def test_a_resumed_phase_comes_to_the_same_verdict(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole")
    assert train(tmp_path / "killed", until=8)[0] == []
    assert train(tmp_path / "killed")[0] == whole
    assert len(whole) == 1


def test_the_verdict_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, judged = train(tmp_path / "judged")
    monkeypatch.setattr(EarlyVerdict, "begin", lambda *_: None)
    said, plain = train(tmp_path / "plain")
    assert said == []
    for one, other in zip(judged.objective.parameters(), plain.objective.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_the_teachers_likeliest_tokens_it_is_said_to_be_missing(tmp_path: Path) -> None:
    said = list[str]()
    teacher = TinyTeacher(make_model(99), layers=(0,))
    train_terms(tmp_path, MIXTURE[2:], teacher=teacher, say=said.append, steps=1)
    assert any(text.startswith("overlap: not measured") for text in said)
    assert reports_of(tmp_path)[0]["figures"] == {}
