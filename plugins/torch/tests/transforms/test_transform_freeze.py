"""Freezing: what matches does not learn, the rest does, and afterwards everything may learn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing import TransformConformance, make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch.transforms import Freeze


class TestFreezeConforms(TransformConformance):
    component = Freeze
    entry_point = "freeze"


def frozen(student: kdtool.LanguageModel) -> set[str]:
    return {name for name, parameter in student.model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"model.embed_tokens.weight", "lm_head.weight"}),
        ({"names": ["*.norm.*"]}, {"model.norm.weight"}),
    ],
)
def test_what_matches_does_not_learn_and_learns_again_afterwards(
    settings: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    student = tiny_model(layers=1, tie_word_embeddings=False)
    training = Freeze(Freeze.Config(**settings)).kdtool_transform(student, make_run(tmp_path))
    assert next(training) is student
    assert frozen(student) == expected
    next(training, None)
    assert not frozen(student)


@pytest.mark.parametrize(
    ("names", "message"), [(["emb"], "no parameter is called 'emb'"), (["*"], "nothing that learns")]
)
def test_mistakes_are_explained(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        next(Freeze(Freeze.Config(names=names)).kdtool_transform(tiny_model(layers=1), make_run(tmp_path)))
