"""Compiled losses give what eager ones give, and a compiler that fails costs nothing but speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_torch import terms
from trainer_models import KL, TinyTeacher, first_gradients, kl_term, make_model, train, train_terms

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")  # compilers' own
@pytest.mark.parametrize("twice", [False, True])
def test_compiled_losses_equal_eager_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twice: bool) -> None:
    compiled: list[bool] = []
    tried = terms.compiled_or_eager

    def noting(loss: Any, *arguments: Any) -> None:
        tried(loss, *arguments)
        compiled.append(loss._compiled is not None)

    monkeypatch.setattr("kdtool_torch.trainer.train.compiled_or_eager", noting)
    cut: dict[str, Any] = {"twice": twice, "head_chunk_size": 17, "loss_chunk_size": 8, "gradient_clip": 0.0}
    gradients = []
    for mode in ("off", "on"):
        student = make_model(1, dropout=0.3 if twice else 0.0)
        with first_gradients(student.model) as found:
            train(tmp_path / mode, student, steps=1, compile=mode, **cut)
        gradients.append(found)
    assert compiled == [False, True]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.filterwarnings("ignore")  # compilers' own
def test_each_phase_of_a_process_is_compiled_as_if_it_were_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch gives a function up that was compiled anew too often; here other losses make it compile anew."""
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *given, **named: compile_with(*given, **named, backend="eager"))
    said: list[str] = []
    for count in (1, 2, 3):
        losses = {f"losses.kl{number}": KL(KL.Config()) for number in range(count)}
        options: dict[str, Any] = {"teacher": TinyTeacher(make_model(99)), "say": said.append, "steps": 1}
        with torch._dynamo.config.patch(recompile_limit=2):  # monkeypatch would leave it without this setting
            train_terms(tmp_path / str(count), [kl_term(name) for name in losses], losses, compile="on", **options)
    assert said == []


def test_a_loss_that_cannot_be_compiled_runs_uncompiled_and_says_so(tmp_path: Path) -> None:
    class Untraceable(KL):
        def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> torch.Tensor:
            values = super().kdtool_token_loss(chunk)
            return values if float(values.detach().sum()) >= 0 else values * 2

    said: list[str] = []
    losses, teacher = {"losses.kl": Untraceable(KL.Config())}, TinyTeacher(make_model(99))
    train_terms(tmp_path, [kl_term("losses.kl")], losses, teacher=teacher, say=said.append, compile="on")
    assert len(said) == 1
    assert "run uncompiled" in said[0]


def test_auto_does_not_compile_a_short_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms.ChunkLoss, "compile", lambda _: pytest.fail("compiled"))
    train(tmp_path, make_model(1), steps=2, compile="auto")
