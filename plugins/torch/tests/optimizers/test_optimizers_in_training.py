"""Phases that `standard` trains with an optimizer of the recipe: as written by hand, and resumed after a kill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool._store.files import discard_uncommitted
from kdtool_testing import make_run, toy_model
from kdtool_testing.phase import Watcher, companions, make_phase
from kdtool_torch.optimizers import AdamW, AdamW8Bit, Muon
from kdtool_torch.trainer import StandardTrainer
from torch import Tensor

STEPS = 8
SETTINGS: Mapping[str, Any] = {
    "batch": 2,
    "learning_rate": 0.02,
    "dtype": "float32",
    "checkpoint_every": 2,
    "log_every": 1,
    "compile": "off",
}


def train(
    folder: Path, optimizer: kdtool.Optimizer | None, watcher: Watcher | None = None, **settings: Any
) -> dict[str, Tensor]:
    """Train the toy model for a phase, and return its weights."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    named = {} if optimizer is None else {"optimizer": optimizer}
    components = {"watcher": watcher or Watcher(), **companions(), **named}
    run = make_run(folder / "run", components, say=lambda _: None)
    student = toy_model(1)
    trainer = StandardTrainer(StandardTrainer.Config.model_validate({**SETTINGS, **settings}))
    trainer.kdtool_train(run, make_phase(folder, STEPS), student)
    return {name: weight.detach().clone() for name, weight in student.model.state_dict().items()}


def same(result: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare the parameters in `expected` bit by bit; a tied head is left out there."""
    for name, weight in expected.items():
        assert result[name].equal(weight), f"{name} differs"


class Noted(AdamW):
    """Notes the gradients of all parameters at each step, by name."""

    def kdtool_optimizer(self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float) -> Any:
        self.gradients: list[dict[str, Tensor]] = []

        def note(*_: Any) -> None:
            grads = {name: parameter.grad for name, parameter in parameters.items()}
            self.gradients.append({name: grad.clone() for name, grad in grads.items() if grad is not None})

        optimizer: Any = super().kdtool_optimizer(run, parameters, learning_rate)
        optimizer.register_step_pre_hook(note)
        return optimizer


def test_a_named_optimizer_trains_as_in_plain_torch_at_the_trainers_learning_rates(tmp_path: Path) -> None:
    component = Noted(Noted.Config(weight_decay=0.2))
    watcher = Watcher()
    result = train(tmp_path, component, watcher, schedule="linear", warmup=0.25)
    plain = dict(toy_model(1).model.named_parameters())
    groups = [
        {"params": [weight for weight in plain.values() if weight.ndim > 1], "weight_decay": 0.2},
        {"params": [weight for weight in plain.values() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.95), fused=True)
    assert len(component.gradients) == STEPS
    for step, gradients in enumerate(component.gradients):
        factor = (step + 1) / 2 if step < 2 else 0.1 + 0.9 * (1 - (step - 2) / (STEPS - 2))
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * factor
        assert watcher.reports[step].learning_rate == 0.02 * factor, "reports show the trainer's"
        for name, parameter in plain.items():
            parameter.grad = gradients[name]
        optimizer.step()
    same(result, {name: weight.detach() for name, weight in plain.items()})


class Fewer(AdamW):
    """Leaves out a parameter."""

    def kdtool_optimizer(self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float) -> Any:
        return super().kdtool_optimizer(run, dict(list(parameters.items())[1:]), learning_rate)


class Nothing(AdamW):
    """Returns no optimizer."""

    def kdtool_optimizer(self, run: kdtool.RunInfo, parameters: Mapping[str, Tensor], learning_rate: float) -> Any:
        return None


@pytest.mark.parametrize(
    ("cls", "message"),
    [(Fewer, r"optimizer 'optimizer'.*each of the 7 parameters.*embedding\.weight"), (Nothing, "not NoneType")],
)
def test_an_optimizer_that_breaks_its_contract_is_named(tmp_path: Path, cls: type[AdamW], message: str) -> None:
    with pytest.raises(kdtool.PluginError, match=message):
        train(tmp_path, cls(cls.Config()))


MADE: Mapping[str, Any] = {"adamw-8bit": lambda: AdamW8Bit(AdamW8Bit.Config()), "muon": lambda: Muon(Muon.Config())}


@pytest.mark.parametrize("name", MADE)
def test_a_killed_phase_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    if name == "adamw-8bit":
        pytest.importorskip("bitsandbytes")
    whole = train(tmp_path / "whole", MADE[name]())
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", MADE[name](), Watcher(1, 1))
    discard_uncommitted(tmp_path / "killed", print)
    watcher = Watcher()
    resumed = train(tmp_path / "killed", MADE[name](), watcher)
    assert watcher.reports[0].step > 1, "it started again"
    same(resumed, whole)


def test_8_bits_are_refused_with_divided_weights(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=r"sharding: full .* needs whole weights; set sharding: off"):
        train(tmp_path, AdamW8Bit(AdamW8Bit.Config()), sharding="full")
