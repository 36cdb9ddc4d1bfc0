"""A training step, a recording and an evaluation on the device `meta`: reading a value fails, as does a tensor elsewhere.

It computes shapes only, so a GPU's program is rehearsed without a GPU. The few reads that a step may make, to stop at a
value that is not finite, are answered here, and counted.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from counted_steps import LAYERS, LOSSES, attend, family_for, in_own_tokens, rows
from kdtool_testing import make_run
from kdtool_testing.tiny_models import tiny_model
from kdtool_torch import collate, move
from kdtool_torch.inputs import MicroBatch, plain_tensors
from kdtool_torch.objective import Objective, Sizes
from kdtool_torch.terms import bind_terms
from kdtool_transformers.attention import replace_attention
from reference_model import Describing, Source
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")
STOPS = ("_token_losses", "_sequence_loss")
"""Functions that read whether a loss is finite, once each."""


class AnsweredStops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers reads by the functions `STOPS` with "finite", and counts them; on `meta` all other reads fail."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device == META and _is_stop():
            self.count += 1
            return True
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _autocast_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer for `meta`, which torch's autocast does not know, as for a device with autocast off."""
    autocast, enabled = torch.autocast, torch.is_autocast_enabled

    def on_any(device_type: str, *args: Any, **settings: Any) -> Any:
        return nullcontext() if device_type == "meta" else autocast(device_type, *args, **settings)

    monkeypatch.setattr(torch, "autocast", on_any)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: device != ("meta",) and enabled(*device))


def _is_stop() -> bool:
    """Return whether the nearest function that is not PyTorch's is one of `STOPS`."""
    frame = sys._getframe(2)
    while frame.f_back is not None and "/torch/" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_name in STOPS


class Rehearsal:
    """One loss with its student, teacher and a batch, on `meta`."""

    def __init__(self, folder: Path, label: str) -> None:
        loss, term = LOSSES[label]
        shape: dict[str, Any] = {"layers": LAYERS, "family": family_for(term)}
        student, teacher = (tiny_model(seed=seed, attention_dropout=0.1 - seed / 10, **shape) for seed in (0, 1))
        facts = student.facts, teacher.facts
        for model in (student.model, teacher.model):
            model.to(META)
            model.set_experts_implementation("batched_mm")  # on `meta` grouped products take bfloat16 only
        student.model.train()
        components: dict[str, kdtool.Component] = {term.name: loss}
        kinds, layers = frozenset(kind for need in term.needs for kind in need), tuple(t for _, t in term.layers)
        sources = {}
        if term.teacher is not None:
            components[term.teacher] = describing = Describing(Describing.Config())
            describing.facts = facts[1]
            sources[term.teacher] = Source(teacher, kdtool.SignalRequest(kinds, layers), term.teacher)
        data = rows("preference" in label)
        batch = move(collate([data[number] for number in range(3)]), META)
        self.tokens = sum(map(sum, (data[number].labelled for number in range(3))))
        phase = kdtool.Phase("rehearsed", 4, (term,), data, sources, folder / "checkpoints")
        run = make_run(folder / "run", components, say=lambda _: None)
        signals = {name: plain_tensors(source.signal(batch)) for name, source in sources.items()}
        others = in_own_tokens((label,), batch)
        self.micro_batch = MicroBatch(batch, signals, others)
        sizes = Sizes(torch.float32, head_chunk_size=16, loss_chunk_size=8, rows_per_step=3)
        self.module = Objective(run, phase, student, sizes).bind(bind_terms(run, phase, signals))


@pytest.mark.parametrize("label", LOSSES)
def test_a_training_step_needs_no_value_of_the_device(tmp_path: Path, label: str) -> None:
    with replace_attention(attend), AnsweredStops() as stops:  # type: ignore[no-untyped-call]
        rehearsal = Rehearsal(tmp_path, label)
        module = rehearsal.module
        module.set_step(2, 0.5, [1.0])
        loss = module(rehearsal.micro_batch, rehearsal.tokens)
        loss.backward()
    assert loss.device == META
    assert stops.count <= 1
    trained = [parameter for parameter in module.student.parameters() if parameter.grad is not None]
    assert trained
    assert all(parameter.grad is not None and parameter.grad.device == META for parameter in trained)


def test_a_read_and_a_tensor_elsewhere_fail() -> None:
    """Else this file would show nothing."""
    values = torch.zeros(6, device=META, requires_grad=True)
    with AnsweredStops(), pytest.raises(RuntimeError, match="meta"):  # type: ignore[no-untyped-call]
        bool(values.sum() > 0)
    with pytest.raises(RuntimeError, match="device"):
        (values * torch.zeros(6)).sum().backward()  # type: ignore[no-untyped-call]
