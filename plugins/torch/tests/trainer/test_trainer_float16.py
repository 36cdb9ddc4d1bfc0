"""float16, for GPUs without bfloat16: gradients through a scaled loss, and steps that overflow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_torch.machine import chosen_dtype
from kdtool_torch.trainer.loop import TrainingLoop
from trainer_models import (
    TinyModel,
    TinyTeacher,
    first_gradients,
    interrupted,
    kl_term,
    make_model,
    reports_of,
    train,
    train_terms,
)  # fmt: skip

pytestmark = pytest.mark.slow

GRAD_SCALER = torch.amp.GradScaler


def scale_from(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    monkeypatch.setattr(torch.amp, "GradScaler", partial(GRAD_SCALER, init_scale=scale))


def test_auto_is_float16_on_a_gpu_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, expected in ((False, torch.float16), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda found=supported, **_: found)
        assert chosen_dtype("auto", torch.device("cuda")) is expected
    assert chosen_dtype("float32", torch.device("cuda")) is torch.float32


def test_the_trainers_gradients_are_those_of_float32(tmp_path: Path) -> None:
    found = {}
    for dtype in ("float32", "float16"):
        student = make_model(1)
        with first_gradients(student.model) as gradients:
            trained = train(tmp_path / dtype, student, steps=1, dtype=dtype, gradient_clip=0.0)
        assert trained.dtype == dtype
        found[dtype] = gradients
    for name, expected in found["float32"].items():
        assert (found["float16"][name] - expected).norm() <= 1e-2 * expected.norm(), name


def test_steps_that_overflow_change_nothing_and_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_from(monkeypatch, 2.0**40)
    student = make_model(1)
    before, weights = {n: p.clone() for n, p in student.model.named_parameters()}, []
    ended = TrainingLoop.end_step

    def end_step(self: TrainingLoop, step: int) -> None:
        ended(self, step)
        weights.append(all(torch.equal(before[n], p) for n, p in student.model.named_parameters()))

    monkeypatch.setattr(TrainingLoop, "end_step", end_step)
    trained = train(tmp_path, student, steps=40, dtype="float16", log_every=1, warmup=0.0, learning_rate=1e-2)
    skipped = sum(weights)
    assert 10 <= skipped <= 35
    assert weights == [True] * skipped + [False] * (40 - skipped)
    assert f"{skipped} of 40 steps changed nothing" in trained.notes[0]
    plain = train(tmp_path / "plain", make_model(1), steps=40, log_every=1, warmup=0.0, learning_rate=1e-2)
    assert trained.tokens == plain.tokens
    reports = reports_of(tmp_path)
    for report, other in zip(reports, reports_of(tmp_path / "plain"), strict=True):
        assert all(report[key] == other[key] for key in ("step", "tokens", "learning_rate"))
        assert (report["gradient_norm"] == 0) == (report["step"] <= skipped)
        assert all(abs(figure) < 1e4 for figure in (report["loss"], report["gradient_norm"]))
    first, *_, last = (report["terms"]["hidden"]["value"] for report in reports)
    assert last < first


def test_a_phase_goes_on_with_the_scale_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_from(monkeypatch, 2.0**30)
    settings: dict[str, Any] = {"dtype": "float16", "log_every": 1, "checkpoint_every": 4}
    train(tmp_path / "whole", whole := make_model(1), steps=16, **settings)
    with interrupted(after=6):
        train(tmp_path / "killed", make_model(1), steps=16, **settings)
    trained = train(tmp_path / "killed", resumed := make_model(1), steps=16, **settings)
    assert "steps changed nothing" in trained.notes[0]
    for name, weight in whole.model.named_parameters():
        assert weight.equal(resumed.model.get_parameter(name)), name


def large(factor: float) -> TinyModel:
    """Return a student whose final states are so many times as large, as those of real models may be beyond float16."""
    student = make_model(1)
    backbone = student.backbone

    def enlarged(batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        outputs = backbone(batch, want)
        half = outputs.last.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else outputs.last
        return replace(outputs, last=(half * factor).float())  # float32 again, as after a norm

    student.backbone = enlarged  # type: ignore[method-assign]
    return student


def test_a_student_beyond_float16_is_refused_before_the_first_step_and_no_loss_is_blamed(tmp_path: Path) -> None:
    for name, factor in (("states", 1e8), ("logits", 1e4)):
        with pytest.raises(kdtool.KdtoolError, match=r"^the student computes NaN or infinity; .* dtype: float32"):
            train(tmp_path / name, large(factor), dtype="float16")


@pytest.mark.parametrize("sound", [0, 3])
def test_a_teacher_that_computes_nan_is_named_and_no_loss_is_blamed(sound: int, tmp_path: Path) -> None:
    class Sick(TinyTeacher):
        calls = 0

        def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
            signal, self.calls = super().signal(batch), self.calls + 1
            assert signal.lazy is not None
            hidden = signal.lazy.hidden if self.calls <= sound else signal.lazy.hidden * torch.nan
            return replace(signal, lazy=replace(signal.lazy, hidden=hidden))

    with pytest.raises(kdtool.KdtoolError, match=r"^teacher computes NaN or infinity"):
        train_terms(tmp_path, [kl_term("losses.kl")], teacher=Sick(make_model(9)), steps=6)


def test_a_student_that_runs_away_in_float16_gets_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        kdtool.UsageError, match=r"diverged at step .*lower learning_rate.* dtype: float32, or bfloat16"
    ):
        train(tmp_path, make_model(1), steps=30, dtype="float16", learning_rate=1e3, warmup=0.0)
