"""The best student is kept beside the checkpoints: whole or noticed, and as long as a checkpoint speaks of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_trainer_standard import _checkpoints
from kdtool_trainer_standard._loop import TrainingLoop
from trainer_models import make_model, train

WATCHED = {"every": 1, "evaluators": ("wave",), "watch": "wave.height"}


def weights(
    folder: Path, say: Callable[[str], None] = lambda _: None, patience: int = 30, **settings: Any
) -> dict[str, torch.Tensor]:
    """Train to the end, validated at each step, and return what the student has then."""
    student, validation = make_model(1), {**WATCHED, "patience": patience}
    train(folder, student, steps=19, batch=2, checkpoint_every=2, validation=validation, run={"say": say}, **settings)
    return dict(student.model.named_parameters())


def interrupt(monkeypatch: pytest.MonkeyPatch, at: Callable[[TrainingLoop, int], bool]) -> None:
    ended = TrainingLoop.end_step

    def end_step(self: TrainingLoop, step: int) -> bool:
        continues = ended(self, step)
        if at(self, step):
            raise KeyboardInterrupt
        return continues

    monkeypatch.setattr(TrainingLoop, "end_step", end_step)


def best_files(folder: Path) -> set[str]:
    return {file.name for file in (folder / "checkpoints" / "validation").glob("*.safetensors")}


def spoken_of(folder: Path) -> list[str]:
    """Return the best weights of each checkpoint, the oldest first."""
    found = (json.loads((one / "progress.json").read_text()) for one in _checkpoints.all_of(folder / "checkpoints"))
    return [f"best-{progress['best']['step']}.safetensors" for progress in found]


def remove(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-40] ^= 0x40
    file.write_bytes(content)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights(tmp_path_factory.mktemp("whole"))


def test_the_best_students_of_all_checkpoints_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, lambda _, step: step == 13)
    with pytest.raises(KeyboardInterrupt):
        weights(tmp_path, keep_checkpoints=5)
    assert len(set(spoken_of(tmp_path))) > 2
    assert set(spoken_of(tmp_path)) <= best_files(tmp_path)


@pytest.mark.parametrize("damage", [remove, flip])
def test_a_checkpoint_whose_best_student_is_damaged_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, torch.Tensor], damage: Callable[[Path], None]
) -> None:
    with monkeypatch.context() as patched:
        interrupt(patched, lambda _, step: step == 13)
        with pytest.raises(KeyboardInterrupt):
            weights(tmp_path, keep_checkpoints=5)
    newest, bests = _checkpoints.all_of(tmp_path / "checkpoints")[-1], spoken_of(tmp_path)
    damage(tmp_path / "checkpoints" / "validation" / bests[-1])
    said: list[str] = []
    found = weights(tmp_path, said.append)
    assert f"{bests[-1]} is " in said[0]
    assert (
        said[1]
        == f"checkpoint {newest} is left out ({bests[-1]} is missing); the one before it is used if there is one"
    )
    assert any("resumes at step" in line for line in said)
    for name, weight in whole.items():
        assert weight.equal(found[name]), name


def test_a_best_student_that_is_lost_while_training_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_the_end(loop: TrainingLoop, _: int) -> bool:
        assert loop.validator is not None
        if loop.validator.over and loop.validator.best is not None:
            remove(tmp_path / "checkpoints" / "validation" / f"best-{loop.validator.best.step}.safetensors")
        return False

    with monkeypatch.context() as patched:
        interrupt(patched, at_the_end)
        with pytest.raises(kdtool.StorageError, match=r"cannot be read.*run the same command"):
            weights(tmp_path, patience=2)
    found = weights(tmp_path, patience=2)  # as the message says
    for name, weight in weights(tmp_path / "whole", patience=2).items():
        assert weight.equal(found[name]), name
