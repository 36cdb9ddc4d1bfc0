"""A teacher that only answers about tokens of the student's choice: what it gives is what its logits would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool._contract.signals import alternatives
from kdtool_torch import chosen_tokens
from trainer_models import TinyTeacher, first_gradients, make_model, train_terms

CHOSEN = alternatives("chosen")


class Answering(TinyTeacher):
    """Gives log-probabilities of the requested tokens, and notes how many were requested."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__(make_model(99))
        self.want = kdtool.SignalRequest(frozenset({"chosen"}), temperature=temperature)
        self.asked: list[tuple[int, ...]] = []

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
        assert isinstance(chosen, torch.Tensor)
        self.asked.append(tuple(chosen.shape))
        with torch.inference_mode():
            lazy = kdtool.LazyLogits(self.model.backbone(batch, kdtool.SignalRequest()).last, self.model.head)
            want = kdtool.SignalRequest(self.want.kinds, (), self.want.temperature, chosen)
            return kdtool.Signal("tiny", chosen=chosen_tokens(lazy, want))


class Likely(kdtool.TokenLoss):
    """Σ q·log(q / p) over the student's likeliest tokens, without the rest."""

    needs = ("logits", "chosen")

    def __init__(self, config: kdtool.Config, size: int) -> None:
        super().__init__(config)
        self.student_tokens = size

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> torch.Tensor:
        teacher, size = chunk.teacher, self.student_tokens
        if isinstance(teacher, kdtool.ChosenTokens):
            ids, p_log = teacher.ids[:, :size].long(), teacher.log_probabilities[:, :size]
        else:
            assert isinstance(teacher, kdtool.DenseTokens)
            ids = chunk.student_logits.topk(size).indices
            p_log = teacher.logits.float().log_softmax(-1).gather(-1, ids)
        q_log = chunk.student_logits.float().log_softmax(-1).gather(-1, ids)
        return (q_log.exp() * (q_log - p_log)).sum(-1)


def gradients(
    folder: Path, source: TinyTeacher, needs: tuple[frozenset[kdtool.SignalKind], ...], *sizes: int, **settings: Any
) -> dict[str, torch.Tensor]:
    losses = {f"losses.likely{size}": Likely(Likely.Config(), size) for size in sizes}
    terms = [kdtool.LossTerm(name, name.partition(".")[2], 1.0, teacher="teacher", needs=needs) for name in losses]
    student = make_model(1)
    with first_gradients(student.model) as found:
        train_terms(folder, terms, losses, student=student, teacher=source, batch=2, accumulation=2, **settings)
    return found


def test_the_gradient_is_that_of_the_teacher_s_logits(tmp_path: Path) -> None:
    source = Answering()
    found = gradients(tmp_path / "chosen", source, CHOSEN, 4, 9)
    expected = gradients(tmp_path / "logits", TinyTeacher(make_model(99)), alternatives("logits"), 4, 9)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)
    assert {width for _, width in source.asked} == {9}, "the loss with most tokens decides"


def test_tokens_at_another_temperature_than_the_loss_s_are_refused(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"works at temperature 1, but the tokens of teacher were taken at 2"):
        gradients(tmp_path, Answering(temperature=2.0), CHOSEN, 4)


def test_weights_on_several_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match="set sharding: off"):
        gradients(tmp_path, Answering(), CHOSEN, 4, sharding="full")
