"""The best student is kept in each checkpoint: whole or noticed, also where a better one was found since."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kdtool_torch.trainer import checkpoint
from trainer_models import interrupted, make_model, train

WATCHED = {"every": 1, "evaluators": ("wave",), "watch": "wave.height"}


def weights(
    folder: Path, say: Callable[[str], None] = lambda _: None, patience: int = 30, **settings: Any
) -> dict[str, torch.Tensor]:
    """Train to the end, validated at each step, and return what the student has then."""
    student, validation = make_model(1), {**WATCHED, "patience": patience}
    train(folder, student, steps=19, batch=2, checkpoint_every=2, validation=validation, run={"say": say}, **settings)
    return dict(student.model.named_parameters())


def bests(folder: Path) -> list[tuple[int, Path]]:
    """Return the step of the best student and the file of its weights for each checkpoint, the oldest first."""
    found = checkpoint.list_checkpoints(folder / "checkpoints")
    steps = (json.loads((each / "progress.json").read_text())["best"]["step"] for each in found)
    return [(step, each / "validation" / "best.safetensors") for step, each in zip(steps, found, strict=True)]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-40] ^= 0x40
    file.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def five_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool_torch.trainer.checkpoint.KEPT", 5)


@pytest.mark.usefixtures("five_kept")
def test_each_checkpoint_holds_the_best_student_of_its_time(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    with interrupted(after=13):
        weights(tmp_path)
    found = bests(tmp_path)
    steps = [step for step, _ in found]
    assert 2 < len(set(steps)) < len(steps)
    assert len({file.read_bytes() for _, file in found}) == len(set(steps))
    assert len({file.stat().st_ino for _, file in found}) == len(set(steps))
    resumed = weights(tmp_path)
    for name, weight in whole.items():
        assert weight.equal(resumed[name]), name


@pytest.mark.usefixtures("five_kept")
def test_a_checkpoint_whose_best_student_is_damaged_is_passed_over(
    tmp_path: Path, whole: dict[str, torch.Tensor]
) -> None:
    with interrupted(after=13):
        weights(tmp_path)
    _, file = bests(tmp_path)[-1]
    flip(file)
    said: list[str] = []
    found = weights(tmp_path, said.append)
    assert f"{file.relative_to(tmp_path / 'checkpoints')} is " in said[0]
    resumed = next(line for line in said if "resumes at step" in line)
    assert f"resumes at step {checkpoint.checkpoint_step(file.parents[1])} " not in resumed
    for name, weight in whole.items():
        assert weight.equal(found[name]), name
