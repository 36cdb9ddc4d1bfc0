"""A phase whose precision was chosen for a machine does not resume on one for which another would be chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_torch.trainer import train as train_module
from kdtool_torch.trainer.loop import TrainingLoop
from trainer_models import make_model, train


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Train for five of eight steps, with checkpoints after two and four."""
    ended = TrainingLoop.end_step

    def end_step(self: TrainingLoop, step: int) -> bool:
        continues = ended(self, step)
        if step == 5:
            raise KeyboardInterrupt
        return continues

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "end_step", end_step)
        with pytest.raises(KeyboardInterrupt):
            whole(folder, **settings)


def whole(folder: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the weights at the end, and what was said."""
    student, said = make_model(1), list[str]()
    train(folder, student, steps=8, batch=2, checkpoint_every=2, run={"say": said.append}, **settings)
    return dict(student.model.named_parameters()), said


@pytest.mark.parametrize(
    ("first", "second"),
    [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16), (torch.bfloat16, torch.float32)],
)
def test_a_phase_does_not_go_on_in_another_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: torch.dtype, second: torch.dtype
) -> None:
    monkeypatch.setattr(train_module, "chosen_dtype", lambda *_: first)  # as `auto` on another machine
    interrupted(tmp_path, monkeypatch, dtype="auto")
    monkeypatch.setattr(train_module, "chosen_dtype", lambda *_: second)
    names = [str(dtype).removeprefix("torch.") for dtype in (first, second)]
    with pytest.raises(
        kdtool.UsageError, match=rf"started in {names[0]} and cannot resume in {names[1]}, .*checkpoints$"
    ):
        whole(tmp_path, dtype="auto")
