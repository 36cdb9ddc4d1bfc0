"""The optimizers under the suite of their kind, and against plain torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import kdtool
import pytest
import torch
from kdtool_testing import OptimizerConformance, make_run, toy_model
from kdtool_torch.optimizers import AdamW, AdamW8Bit, Muon, group_parameters
from torch import Tensor

PEAK = 0.01


class TestAdamW8Bit(OptimizerConformance):
    component = AdamW8Bit
    entry_point = "adamw-8bit"

    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        """Leave out what needs bitsandbytes where it is not installed."""
        pytest.importorskip("bitsandbytes")


class TestMuon(OptimizerConformance):
    component = Muon
    entry_point = "muon"


def trained(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], factors: Sequence[float] = (0.5, 1.0, 0.7)
) -> dict[str, Tensor]:
    """Return the parameters after a step at each multiple of the peak, with the same gradients each time."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(0)
    for factor in factors:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in parameters.items()}


def parameters_of_toy() -> dict[str, Tensor]:
    return dict(toy_model(1).model.named_parameters())


def make(component: kdtool.Optimizer, parameters: Mapping[str, Tensor], folder: Path) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = component.kdtool_optimizer(make_run(folder), parameters, PEAK)
    return optimizer


def same(result: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, weight in result.items():
        assert weight.equal(expected[name]), f"{name} differs"


def test_muon_trains_matrices_of_layers_and_adamw_the_rest(tmp_path: Path) -> None:
    ours, plain = parameters_of_toy(), parameters_of_toy()
    matrices = {name for name in plain if name.startswith("layers") and name.endswith("weight")}
    muon = torch.optim.Muon(
        [plain[name] for name in plain if name in matrices], lr=PEAK, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    rest = {name: weight for name, weight in plain.items() if name not in matrices}
    groups = group_parameters(rest, PEAK, 0.01)
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    result = trained(make(Muon(Muon.Config()), ours, tmp_path), ours, (1.0,))
    generator = torch.Generator().manual_seed(0)
    for parameter in plain.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    muon.step()  # type: ignore[no-untyped-call]
    adamw.step()
    same(result, {name: weight.detach() for name, weight in plain.items()})


def test_muon_without_matrices_or_without_anything_else(tmp_path: Path) -> None:
    for parameters in ({"a": torch.ones(3)}, {"a": torch.ones(3, 3)}):
        learned = {name: weight.requires_grad_() for name, weight in parameters.items()}
        before = {name: weight.detach().clone() for name, weight in learned.items()}
        result = trained(make(Muon(Muon.Config()), learned, tmp_path), learned)
        assert not result["a"].equal(before["a"])


def test_the_state_in_8_bits_takes_a_quarter(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    size = 64 * 1024
    measured = {}
    for cls in (AdamW, AdamW8Bit):
        parameters = {"weight": torch.ones(64, 1024, requires_grad=True)}
        optimizer = make(cls(cls.Config()), parameters, tmp_path)
        trained(optimizer, parameters)
        tensors = [value for name, value in optimizer.state[parameters["weight"]].items() if isinstance(value, Tensor)]
        measured[cls] = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
    assert measured[AdamW] == pytest.approx(AdamW.state_bytes * size, rel=1e-3)
    assert measured[AdamW8Bit] == pytest.approx(AdamW8Bit.state_bytes * size, rel=2e-2)
