"""The suite of weightings on all of them, and weightings of tokens compiled as trainers do."""

from __future__ import annotations

from typing import Any, ClassVar

import kdtool
import pytest
import torch
from kdtool_testing import WeightingConformance
from kdtool_torch.weightings import (
    Confidence,
    GradNorm,
    OnMetric,
    Position,
    StudentEntropy,
    Syntax,
    TeacherEntropy,
    Uncertainty,
)
from torch import Tensor


class TestTeacherEntropy(WeightingConformance):
    component = TeacherEntropy
    entry_point = "teacher-entropy"
    settings: ClassVar = {"threshold": 1.85, "power": 0}
    teachers: ClassVar = (None, "logits")


class TestStudentEntropy(WeightingConformance):
    component = StudentEntropy
    entry_point = "student-entropy"
    settings: ClassVar = {"power": 0.5}
    teachers: ClassVar = (None, "logits", "top-k", "sampled")


class TestConfidence(WeightingConformance):
    component = Confidence
    entry_point = "confidence"
    settings: ClassVar = {"of": "label", "prefer": "unsure", "power": 2.0}


class TestPosition(WeightingConformance):
    component = Position
    entry_point = "position"


class TestSyntax(WeightingConformance):
    component = Syntax
    entry_point = "syntax"
    settings: ClassVar = {"comment": 0, "keyword": 4.0}
    columns: ClassVar = {"syntax": 9}


class TestUncertainty(WeightingConformance):
    component = Uncertainty
    entry_point = "uncertainty"


class TestGradNorm(WeightingConformance):
    component = GradNorm
    entry_point = "gradnorm"


class TestOnMetric(WeightingConformance):
    component = OnMetric
    entry_point = "on-metric"
    settings: ClassVar = {"watch": "b", "above": 0.5, "change": "b", "factor": 3.0, "over": 4, "smoothing": 0.5}


def chunk_of(logits: Tensor, teacher: Tensor, step: Tensor) -> kdtool.TokenChunk:
    here = torch.arange(len(logits))
    columns = {"syntax": here % 9}
    return kdtool.TokenChunk(logits, here % 7, kdtool.DenseTokens(teacher), here, 1.0, torch.tensor(0.5), step, columns)


@pytest.mark.parametrize(
    "weighting",
    [TeacherEntropy(TeacherEntropy.Config(threshold=1.5)), StudentEntropy(StudentEntropy.Config()),
     Confidence(Confidence.Config()), Confidence(Confidence.Config(of="label", prefer="unsure")),
     Position(Position.Config()), Position(Position.Config(first=3.0, shape="exponential")),
     Syntax(Syntax.Config(comment=0.2, keyword=2.0))],
)  # fmt: skip
def test_it_is_compiled_into_the_gradient_of_a_loss_for_any_number_of_rows(weighting: Any) -> None:
    def total(logits: Tensor, teacher: Tensor, step: Tensor) -> Tensor:
        chunk = chunk_of(logits, teacher, step)
        weights: Tensor = weighting.kdtool_token_weight(chunk).detach()
        return (weights * -logits.log_softmax(-1).gather(-1, chunk.labels[:, None])[:, 0]).sum()

    transformed = torch.func.grad_and_value(total)
    torch.compiler.reset()
    compiled = torch.compile(transformed, fullgraph=True, dynamic=True, backend="eager")
    generator = torch.Generator().manual_seed(0)
    for rows in (12, 31, 17):
        logits, teacher = (torch.randn(rows, 9, generator=generator) for _ in range(2))
        expected = transformed(logits, teacher, torch.tensor(1))
        torch.testing.assert_close(compiled(logits, teacher, torch.tensor(rows)), expected)
