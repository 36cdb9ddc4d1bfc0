"""Freezing: what matches does not learn, the rest does, and afterwards everything may learn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import TransformConformance, make_run
from kdtool_torch.transforms import Freeze


class TestFreezeConforms(TransformConformance):
    component = Freeze
    entry_point = "freeze"


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 4)
        self.layer = torch.nn.Linear(4, 4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


class Student(kdtool.LanguageModel):
    def __init__(self) -> None:
        self.model = Tied()

    @property
    def facts(self) -> kdtool.ModelFacts:
        raise NotImplementedError

    @property
    def head(self) -> kdtool.Head:
        raise NotImplementedError

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def _learning(student: Student) -> set[str]:
    return {name for name, parameter in student.model.named_parameters() if parameter.requires_grad}


def _freeze(**settings: Any) -> Freeze:
    return Freeze(Freeze.Config(**settings))


def test_embeddings_stay_and_learn_again_afterwards(tmp_path: Path) -> None:
    student, freeze = Student(), _freeze()
    run = make_run(tmp_path)
    training = freeze.kdtool_transform(student, run)
    assert next(training) is student
    assert _learning(student) == {"layer.weight", "layer.bias"}
    next(training, None)
    assert _learning(student) == {"embed.weight", "layer.weight", "layer.bias"}


def test_patterns_are_shell_patterns(tmp_path: Path) -> None:
    student = Student()
    next(_freeze(names=["layer.*"]).kdtool_transform(student, make_run(tmp_path)))
    assert _learning(student) == {"embed.weight"}


@pytest.mark.parametrize(
    ("names", "message"), [(["emb"], "no parameter is called 'emb'"), (["*"], "nothing that learns")]
)
def test_mistakes_are_explained(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        next(_freeze(names=names).kdtool_transform(Student(), make_run(tmp_path)))
