"""The suite of optimizers. Torch is imported when a test runs."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

from kdtool import RunInfo

from kdtool_testing.component import ComponentConformance
from kdtool_testing.toy.model import toy_model

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OptimizerConformance"]

PEAK = 0.02
"""Learning rate of the tests."""


class OptimizerConformance(ComponentConformance):
    """An optimizer updates every parameter, follows the trainer's learning rate, and resumes to the same bits."""

    kind: ClassVar[str] = "optimizer"

    def parameters(self) -> Mapping[str, Tensor]:
        """Return the parameters to train, by name, the same ones each time: leaves that require a gradient."""
        return dict(toy_model(1).model.named_parameters())

    def test_every_parameter_is_in_one_group(self, run: RunInfo) -> None:
        parameters = self.parameters()
        grouped = [id(parameter) for group in self._make(run, parameters).param_groups for parameter in group["params"]]
        assert sorted(grouped) == sorted(map(id, parameters.values()))

    def test_every_parameter_changes(self, run: RunInfo) -> None:
        trained = self._train(run, 2)
        for name, before in self.parameters().items():
            assert not trained[name].equal(before), f"{name} is as before"

    def test_the_distance_to_a_target_falls(self, run: RunInfo) -> None:
        parameters = self.parameters()
        optimizer, before = self._make(run, parameters), float(_distance(parameters).detach())
        for _ in range(20):
            _step(optimizer, parameters)
        assert float(_distance(parameters).detach()) < before

    def test_a_learning_rate_of_zero_changes_nothing(self, run: RunInfo) -> None:
        """The first step of a warm-up; weight decay is multiplied by the learning rate, too."""
        trained = self._train(run, 2, factor=0.0)
        for name, before in self.parameters().items():
            assert trained[name].equal(before), f"{name} changes at a learning rate of 0"

    def test_learning_rates_follow_the_trainers(self, run: RunInfo) -> None:
        rates = [
            [float(group["lr"]) for group in self._make(run, self.parameters(), peak).param_groups]
            for peak in (PEAK, PEAK / 2)
        ]
        assert [rate / 2 for rate in rates[0]] == rates[1], "a group's lr is not a multiple of the learning rate"

    def test_its_state_is_tensors_and_numbers(self, run: RunInfo) -> None:
        import torch

        parameters = self.parameters()
        optimizer = self._make(run, parameters)
        _step(optimizer, parameters)
        for state in optimizer.state_dict()["state"].values():
            for name, value in state.items():
                assert isinstance(name, str)
                assert isinstance(value, torch.Tensor | int | float), f"{name} is {type(value).__name__}"
                assert not isinstance(value, torch.Tensor) or type(value) is torch.Tensor, f"{name} is a subclass"

    def test_it_resumes_to_the_same_bits(self, run: RunInfo) -> None:
        whole, parameters = self._train(run, 6), self.parameters()
        optimizer = self._make(run, parameters)
        for _ in range(3):
            _step(optimizer, parameters)
        saved = deepcopy(optimizer.state_dict())
        resumed = {name: weight.detach().clone().requires_grad_() for name, weight in parameters.items()}
        optimizer = self._make(run, resumed)
        optimizer.load_state_dict(saved)
        for _ in range(3):
            _step(optimizer, resumed)
        for name, weight in whole.items():
            assert weight.equal(resumed[name]), f"{name} differs"

    def test_it_draws_nothing_from_the_global_generator(self, run: RunInfo) -> None:
        import torch

        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            results.append(self._train(run, 2))
        for name, weight in results[0].items():
            assert weight.equal(results[1][name]), f"{name} depends on torch's global generator"

    def _make(self, run: RunInfo, parameters: Mapping[str, Tensor], peak: float = PEAK) -> Any:
        import torch

        optimizer = self.ready(run).kdtool_optimizer(run, parameters, peak)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _train(self, run: RunInfo, steps: int, factor: float = 1.0) -> dict[str, Tensor]:
        """Return the parameters after some steps at a multiple of the peak learning rate."""
        parameters = self.parameters()
        optimizer = self._make(run, parameters)
        for group in optimizer.param_groups:
            group["lr"] *= factor
        for _ in range(steps):
            _step(optimizer, parameters)
        return {name: parameter.detach() for name, parameter in parameters.items()}


def _step(optimizer: Any, parameters: Mapping[str, Tensor]) -> None:
    optimizer.zero_grad()
    _distance(parameters).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _distance(parameters: Mapping[str, Tensor]) -> Tensor:
    """Return the squared distance of the parameters to a point far away from them."""
    import torch

    return torch.stack([(parameter - 2.0).square().mean() for parameter in parameters.values()]).sum()
