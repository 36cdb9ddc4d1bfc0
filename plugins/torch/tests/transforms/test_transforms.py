"""Freezing: what matches does not learn, the rest does, and afterwards everything may learn again.

Gradient checkpointing: the same gradients, from less that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import TransformConformance, make_run
from kdtool_testing.tiny_models import packed_batch, tiny_model
from kdtool_torch.transforms import Freeze, GradientCheckpointing
from kdtool_transformers import TransformersModel


class TestFreezeConforms(TransformConformance):
    component = Freeze
    entry_point = "freeze"


def frozen(student: kdtool.LanguageModel) -> set[str]:
    return {name for name, parameter in student.model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, {"model.embed_tokens.weight", "lm_head.weight"}), ({"names": ["*.norm.*"]}, {"model.norm.weight"})],
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


FAMILIES = ["llama", "qwen2", "starcoder2", "gpt2", "gemma2"]


class TestGradientCheckpointingConforms(TransformConformance):
    component = GradientCheckpointing
    entry_point = "gradient-checkpointing"

    def student(self, folder: Path) -> kdtool.LanguageModel:
        return tiny_model()


def switch_on(student: TransformersModel, folder: Path) -> Iterator[kdtool.LanguageModel]:
    """Transform the student; the next step of what is returned finishes."""
    training = GradientCheckpointing(GradientCheckpointing.Config()).kdtool_transform(student, make_run(folder))
    next(training)
    return training


def gradients(student: TransformersModel) -> tuple[dict[str, torch.Tensor], int]:
    """Return gradients of a step of packed documents, hidden states included, and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = sum(parameter.numel() * 4 for parameter in student.model.parameters())
    student.model.train()
    student.model.zero_grad()
    with torch.random.fork_rng(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.manual_seed(0)  # for dropout
        outputs = student.backbone(packed_batch(), kdtool.SignalRequest(kinds=frozenset({"hidden"}), layers=(1,)))
        loss = outputs.last.square().mean() + outputs.hidden[1].square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}
    return found, sum(kept.values()) - weights


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_to_the_bit_and_less_is_kept(family: str, tmp_path: Path) -> None:
    student = tiny_model(family, layers=8)
    expected, all_kept = gradients(student)
    training = switch_on(student, tmp_path)
    found, kept = gradients(student)
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    assert kept < 0.5 * all_kept
    next(training, None)
    assert gradients(student)[1] == all_kept


def test_models_of_others_are_told_to_leave_it_out(tmp_path: Path) -> None:
    class Own(TransformersModel):
        def __init__(self) -> None:
            self.model = torch.nn.Linear(2, 2)

    with pytest.raises(kdtool.UsageError, match="not Linear; remove the transform"):
        switch_on(Own(), tmp_path)
    student = tiny_model()
    student.model.supports_gradient_checkpointing = False
    with pytest.raises(kdtool.UsageError, match="LlamaForCausalLM does not support activation checkpointing"):
        switch_on(student, tmp_path)
