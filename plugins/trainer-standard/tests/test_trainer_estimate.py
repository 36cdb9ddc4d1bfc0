"""What a phase is said to take, against the tensors themselves."""

from __future__ import annotations

from pathlib import Path

import kdtool
import pytest
import torch
from kdtool.testing import make_run
from kdtool_trainer_standard._estimate import _gathered, _inside
from kdtool_transformers.testing import packed_batch, tiny_model
from trainer_models import CE, make_trainer

ROWS, LENGTH = 2, 48
SIZES: dict[kdtool.Offer, tuple[int, int]] = {"hidden": (3, 3), "attentions": (2, 1), "projections": (2, 1)}
"""How often a student's and a teacher's tensors are counted."""


@pytest.mark.parametrize("kind", SIZES)
def test_what_is_compared_inside_is_counted(kind: kdtool.Offer) -> None:
    student = tiny_model("llama", layers=2, hidden_size=24, num_attention_heads=2, num_key_value_heads=1)
    teacher = tiny_model("qwen2", layers=3)
    pairs = ((0, 0), (1, 2))
    term = kdtool.Term("loss", "loss", 1.0, teacher="teacher", needs=(frozenset({kind}),), layers=pairs)
    ahead = kdtool.Prospect(models={"teacher": teacher.facts})
    expected = 0
    for model, times in zip((student, teacher), SIZES[kind], strict=True):
        outputs = model.backbone(packed_batch(ROWS, LENGTH), kdtool.Want(frozenset({kind}), (0, 1)))
        for inside in getattr(outputs, kind).values():
            expected += times * sum(part.numel() for part in (inside if kind == "projections" else (inside,)))
    assert _inside(ahead, term, student.facts, LENGTH) * ROWS * LENGTH == expected


def test_what_stays_whole_of_a_divided_student_is_counted() -> None:
    student = tiny_model("llama", layers=3)
    layer = sum(p.numel() for p in student.model.model.layers[0].parameters())
    rest = sum(p.numel() for p in student.model.parameters()) - 3 * layer
    assert _gathered(student, 7, torch.float32) == 4 * (2 * (rest + 7) + layer)
    assert _gathered(student, 7, torch.bfloat16) == 4 * (2 * (rest + 7) + layer) + 2 * 3 * layer


@pytest.mark.parametrize("watch", [None, "wave.height"])
def test_best_students_on_disk_are_counted_where_one_is_watched(tmp_path: Path, watch: str | None) -> None:
    outline = tiny_model("llama")
    term = kdtool.Term("losses.ce", "ce", 1.0)
    phase = kdtool.PhaseAhead("train", "train", "student", 4, (term,), LENGTH, outline, outline.facts)
    trainer = make_trainer(keep_checkpoints=2, validation={"evaluators": ("wave",), "watch": watch})
    run = make_run(tmp_path, {"losses.ce": CE(CE.Config())})
    found = list(trainer.kdtool_estimate(run, kdtool.Prospect(phase=phase)))
    weights = sum(4 * p.numel() for p in outline.model.parameters() if p.requires_grad)
    # Of two checkpoints, one that was found since, and one that is written beside them.
    assert sum(one.disk_bytes for one in found if one.part == "best student") == (4 * weights if watch else 0)
