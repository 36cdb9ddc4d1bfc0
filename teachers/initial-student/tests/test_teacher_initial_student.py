"""The teacher `initial-student`: signals of the student in the folder that the engine names, and none of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_teacher_initial_student import InitialStudent
from kdtool_testing import TeacherConformance, make_run, write_toy_model
from kdtool_testing.tiny_models import packed_batch, tiny_model
from saved_student import Saved

WANT = kdtool.SignalRequest(frozenset({"logits"}))


class TestInitialStudent(TeacherConformance):
    component = InitialStudent
    entry_point = "initial-student"

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return {"student": Saved(write_toy_model(folder / "model"))}

    def ready(self, run: kdtool.RunInfo) -> Any:
        teacher = super().ready(run)
        teacher.kdtool_load_weights(run, run.folder / "model")
        return teacher


def logits(signal: kdtool.Signal) -> torch.Tensor:
    assert signal.lazy is not None
    return signal.lazy.hidden @ signal.lazy.head.weight.T


def test_it_is_the_student_in_the_last_folder_and_frozen(tmp_path: Path) -> None:
    teacher, batch = InitialStudent(InitialStudent.Config(phase="qat")), packed_batch()
    assert teacher.initial_student == "qat"
    found = []
    for seed in (0, 1):
        student = tiny_model(seed=seed)
        student.save(tmp_path / f"model{seed}")
        run = make_run(tmp_path, {"student": Saved(tmp_path / f"model{seed}")}, seed=seed)
        teacher.kdtool_load_weights(run, tmp_path / f"model{seed}")
        signal = teacher.kdtool_signal(batch, WANT)
        found.append(logits(signal))
        with torch.no_grad():
            expected = student.backbone(batch, kdtool.SignalRequest()).last @ student.head.weight.T
        torch.testing.assert_close(found[-1], expected)
        assert not found[-1].requires_grad
    assert not torch.allclose(found[0], found[1])


def test_without_a_student_it_cannot_be_asked() -> None:
    with pytest.raises(kdtool.PluginError, match="before kdtool_load_weights"):
        InitialStudent(InitialStudent.Config()).kdtool_signal(packed_batch(), WANT)


def test_a_student_that_takes_its_tokenizer_from_it_is_refused(tmp_path: Path) -> None:
    class Heir(Saved):
        def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
            return self.tokenizer_of(run, "teacher")

    teacher = InitialStudent(InitialStudent.Config())
    run = make_run(tmp_path, {"student": Heir(tmp_path), "teacher": teacher})
    with pytest.raises(kdtool.UsageError, match="takes its tokenizer or weights from this teacher"):
        teacher.kdtool_tokenizer(run)
