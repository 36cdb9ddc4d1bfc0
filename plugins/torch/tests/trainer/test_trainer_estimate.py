"""Estimates of a phase's memory, against the tensors themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_testing import make_run
from kdtool_testing.tiny_models import packed_batch, tiny_model
from kdtool_torch.trainer.estimate import _gathered_bytes, _inside
from trainer_models import CE, make_trainer

ROWS, LENGTH = 2, 48
CE_TERM = kdtool.LossTerm("losses.ce", "ce", 1.0)
SIZES: dict[kdtool.SignalKind, tuple[int, int]] = {"hidden": (3, 3), "attentions": (2, 1), "projections": (2, 1)}
"""Number of times that a student's and a teacher's tensors are counted."""


def planned(outline: Any, *terms: kdtool.LossTerm) -> kdtool.RunForecast:
    """Return what is known ahead of four steps of a student."""
    phase = kdtool.PlannedPhase("train", "train", "student", 4, terms, LENGTH, outline, outline.facts)
    return kdtool.RunForecast(phase=phase)


@pytest.mark.parametrize("kind", SIZES)
def test_what_is_compared_inside_is_counted(kind: kdtool.SignalKind) -> None:
    student = tiny_model("llama", layers=2, hidden_size=24, num_attention_heads=2, num_key_value_heads=1)
    teacher = tiny_model("qwen2", layers=3)
    pairs = ((0, 0), (1, 2))
    term = kdtool.LossTerm("loss", "loss", 1.0, teacher="teacher", needs=(frozenset({kind}),), layers=pairs)
    ahead = kdtool.RunForecast(models={"teacher": teacher.facts})
    expected = 0
    for model, times in zip((student, teacher), SIZES[kind], strict=True):
        outputs = model.backbone(packed_batch(ROWS, LENGTH), kdtool.SignalRequest(frozenset({kind}), (0, 1)))
        for inside in getattr(outputs, kind).values():
            expected += times * sum(part.numel() for part in (inside if kind == "projections" else (inside,)))
    assert _inside(ahead, term, student.facts, LENGTH) * ROWS * LENGTH == expected


def test_what_stays_whole_of_a_divided_student_is_counted() -> None:
    student = tiny_model("llama", layers=3)
    layer = sum(p.numel() for p in student.model.model.layers[0].parameters())
    rest = sum(p.numel() for p in student.model.parameters()) - 3 * layer
    assert _gathered_bytes(student, 7, torch.float32) == 4 * (2 * (rest + 7) + layer)
    assert _gathered_bytes(student, 7, torch.bfloat16) == 4 * (2 * (rest + 7) + layer) + 2 * 3 * layer


@pytest.mark.parametrize("watch", [None, "wave.height"])
def test_best_students_on_disk_are_counted_where_one_is_watched(tmp_path: Path, watch: str | None) -> None:
    outline = tiny_model("llama")
    trainer = make_trainer(validation={"evaluators": ("wave",), "watch": watch})
    run = make_run(tmp_path, {"losses.ce": CE(CE.Config())})
    found = list(trainer.kdtool_estimate(run, planned(outline, CE_TERM)))
    weights = sum(4 * p.numel() for p in outline.model.parameters() if p.requires_grad)
    # Of two checkpoints, one that was found since, and one that is written beside them.
    assert sum(one.disk_bytes for one in found if one.part == "best student") == (4 * weights if watch else 0)


@pytest.mark.parametrize("gpu", [True, False])
def test_the_copy_of_a_checkpoint_and_the_launch_of_kernels_are_counted_where_a_gpu_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(kdtool.Gpu, "of_check", lambda: kdtool.Gpu.find("t4") if gpu else None)
    outline = tiny_model("llama")
    run = make_run(tmp_path, {"losses.ce": CE(CE.Config())})
    found = list(make_trainer().kdtool_estimate(run, planned(outline, CE_TERM)))
    weights = sum(12 * p.numel() for p in outline.model.parameters() if p.requires_grad)
    copied = [one.host_bytes for one in found if one.part == "checkpoint that is written"]
    assert copied == ([weights] if gpu else [])
    (training,) = (one for one in found if one.part == "training")
    assert ("kernels" in training.note) == gpu, "tiny layers wait for their launch"


class Small(kdtool.Optimizer):
    """An optimizer with little state."""

    state_bytes = 2.0
    divisible = False

    def kdtool_optimizer(self, run: kdtool.RunInfo, parameters: Mapping[str, Any], learning_rate: float) -> Any:
        raise NotImplementedError


def test_the_state_of_the_recipes_optimizer_is_counted(tmp_path: Path) -> None:
    outline = tiny_model("llama")
    facts, ahead = outline.facts, planned(outline)
    run = make_run(tmp_path, {"optimizer": Small(Small.Config())})
    plain, small = (
        {part.part: part for part in make_trainer().kdtool_estimate(each, ahead)} for each in (make_run(tmp_path), run)
    )
    assert small["optimizer"].host_bytes == plain["optimizer"].host_bytes / 4 == 2 * facts.trainable
    assert small["checkpoints"].disk_bytes == plain["checkpoints"].disk_bytes / 2 == 3 * 6 * facts.trainable
    with pytest.raises(kdtool.UsageError, match="needs whole weights; set sharding: off"):
        list(make_trainer(sharding="full").kdtool_estimate(run, ahead))
