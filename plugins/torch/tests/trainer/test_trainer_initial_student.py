"""A teacher that is the initial student computes in the student's precision; any other one chooses its own."""

from __future__ import annotations

from pathlib import Path

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_torch import collate
from kdtool_torch.inputs import TeacherSignals
from trainer_models import TinyTeacher, kl_term, make_model, make_phase, make_rows


class Copy(kdtool.Teacher):
    """Signals of a frozen model in float32."""

    offers = frozenset({"logits"})

    def __init__(self, initial_student: str | None) -> None:
        super().__init__(None)
        self.initial_student = initial_student

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        return TinyTeacher(make_model(1)).signal(batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("initial_student", ["", None])
def test_the_initial_student_computes_as_the_student_does(
    tmp_path: Path, dtype: torch.dtype, initial_student: str | None
) -> None:
    run = make_run(tmp_path, {"teacher": Copy(initial_student)})
    phase = make_phase(tmp_path, [kl_term("losses.kl")], {"teacher": TinyTeacher(make_model(1))})
    batch = collate([make_rows(2)[0], make_rows(2)[1]])
    student = make_model(1)
    signals = TeacherSignals(run, phase, student, dtype)(batch).signals
    lazy = signals["teacher"].lazy
    expected = dtype if initial_student == "" else torch.float32
    with torch.no_grad(), torch.autocast("cpu", expected, enabled=expected != torch.float32):
        states = student.backbone(batch, kdtool.SignalRequest()).last
    assert lazy is not None
    assert torch.equal(lazy.hidden, states)
    assert lazy.head.weight.dtype == expected
