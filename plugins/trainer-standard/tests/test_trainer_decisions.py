"""Decisions that a phase made by its machine when it began are kept when it resumes, or the machine is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_trainer_standard import _compiling, _train
from kdtool_trainer_standard._loop import TrainingLoop
from trainer_models import make_model, train


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """Train for five of eight steps, with checkpoints after two and four."""
    ended = TrainingLoop.end_step

    def end_step(self: TrainingLoop, step: int, control: Any) -> None:
        ended(self, step, control)
        if step == 5:
            raise KeyboardInterrupt

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
    monkeypatch.setattr(_train, "chosen_dtype", lambda *_: first)  # as `auto` on another machine
    interrupted(tmp_path, monkeypatch, dtype="auto")
    monkeypatch.setattr(_train, "chosen_dtype", lambda *_: second)
    names = [str(dtype).removeprefix("torch.") for dtype in (first, second)]
    with pytest.raises(
        kdtool.UsageError, match=rf"started in {names[0]} and cannot resume in {names[1]}, .*checkpoints$"
    ):
        whole(tmp_path, dtype="auto")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "later"), [(1e3, 1e-9), (1e-9, 1e3)])
@pytest.mark.filterwarnings("ignore")  # compilers' own
def test_a_phase_stays_compiled_or_not_whatever_the_clock_says_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, later: float
) -> None:
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *given, **named: compile_with(*given, **named, backend="eager"))
    compiled: list[bool] = []
    begun = TrainingLoop.begin_step

    def begin_step(self: TrainingLoop, done: int) -> None:
        begun(self, done)
        compiled.append(self.module.chunk_loss.is_compiled)

    monkeypatch.setattr(TrainingLoop, "begin_step", begin_step)
    monkeypatch.setattr(_compiling, "_seconds_of_call", lambda *_: first)
    expected, _ = whole(tmp_path / "whole", compile="auto")
    interrupted(tmp_path / "killed", monkeypatch, compile="auto")
    monkeypatch.setattr(_compiling, "_seconds_of_call", lambda *_: later)
    found, said = whole(tmp_path / "killed", compile="auto")
    assert any("resumes at step 4" in line for line in said)
    assert set(compiled) == {first > later}
    for name, weight in expected.items():
        assert weight.equal(found[name]), name


def test_a_phase_that_can_no_longer_be_compiled_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", lambda function, **_: function)
        interrupted(tmp_path, monkeypatch, compile="on")

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    _, said = whole(tmp_path, compile="on")
    assert any("compiling failed (no compiler); they were compiled before" in line for line in said)
