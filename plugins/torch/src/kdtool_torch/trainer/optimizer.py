"""The optimizer, the recipe's or AdamW: parameter groups, and its state by parameter names.

The estimate asks for the recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kdtool
import torch
from torch import Tensor, nn

from kdtool_torch.optimizers import AdamW
from kdtool_torch.trainer.settings import StandardTrainerConfig

_PREFIX = "optimizer."


def build_optimizer(config: StandardTrainerConfig, run: kdtool.RunInfo, module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that the recipe names, else fused AdamW without decay of norms and biases."""
    component = named_optimizer(run, config.sharding)
    if component is None:
        component = AdamW(AdamW.Config(weight_decay=config.weight_decay))
    optimizer = _make_optimizer(component, run, module, config.learning_rate)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def named_optimizer(run: kdtool.RunInfo, sharding: str) -> kdtool.Optimizer | None:
    """Return the phase's `optimizer`; None if the recipe names none.

    Raises:
        UsageError: weights are divided among processes (`sharding`), and it cannot update such weights.
    """
    names = run.implementing("kdtool_optimizer")
    if not names:
        return None
    component = run.component(names[0], kdtool.Optimizer)
    if sharding != "off" and not component.divisible:
        raise kdtool.UsageError(
            f"sharding: {sharding} is not possible with {run.hook.owner(names[0]) or names[0]}, which needs whole weights; "
            "set sharding: off, or use another optimizer"
        )
    return component


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors by `optimizer.PARAMETER.NAME`, such as `optimizer.student.head.weight.exp_avg`."""
    return {
        f"{_PREFIX}{name}.{key}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Any]:
    """Return the rest of the optimizer's state, to be stored as JSON: numbers of its groups, and of parameters by name."""
    return {
        "groups": [_numbers(group) for group in optimizer.param_groups],
        "state": {
            name: numbers
            for name, parameter in module.named_parameters()
            if (numbers := _numbers(optimizer.state.get(parameter, {})))
        },
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    numbers: Mapping[str, Any],
    stored: Mapping[str, tuple[torch.Size, torch.dtype]],
) -> dict[str, Tensor]:
    """Restore the optimizer's numbers, and return its tensors, still without values, for the caller to read into.

    Args:
        optimizer: without state yet.
        module: that it optimises.
        numbers: the result of `optimizer_numbers`.
        stored: shapes and dtypes of the tensors in the checkpoint, by name. A tensor of its parameter's shape is divided
            among ranks as the parameter is.
    """
    for group, values in zip(optimizer.param_groups, numbers["groups"], strict=True):
        group.update(values)
    parameters = dict(module.named_parameters())
    for name, values in numbers["state"].items():
        optimizer.state[parameters[name]].update(values)
    for full_name, (shape, dtype) in stored.items():
        if not full_name.startswith(_PREFIX):
            continue
        name, _, key = full_name.removeprefix(_PREFIX).rpartition(".")
        weight = parameters[name].data
        optimizer.state[parameters[name]][key] = (
            torch.empty_like(weight, dtype=dtype)
            if shape == weight.shape
            else torch.empty(shape, dtype=dtype, device=weight.device)
        )
    return optimizer_tensors(optimizer, module)


def _make_optimizer(
    component: kdtool.Optimizer, run: kdtool.RunInfo, module: nn.Module, learning_rate: float
) -> torch.optim.Optimizer:
    """Return the component's optimizer of all parameters of the module that learn.

    Raises:
        PluginError: it returned something else, or left out a parameter, or has one twice.
    """
    learned = ((name, weight) for name, weight in module.named_parameters() if weight.requires_grad)
    parameters = {name.removeprefix("student."): weight for name, weight in learned}
    optimizer = component.kdtool_optimizer(run, parameters, learning_rate)
    owner = next(map(run.hook.owner, run.implementing("kdtool_optimizer")), None)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise kdtool.PluginError(f"{owner} must return a torch.optim.Optimizer, not {type(optimizer).__name__}")
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    wrong = [name for name, parameter in parameters.items() if grouped.count(id(parameter)) != 1]
    if wrong or len(grouped) > len(parameters):
        raise kdtool.PluginError(
            f"{owner} must put each of the {len(parameters)} parameters that it gets into one group, and no others; it "
            f"returned {len(grouped)}, with {wrong[0] if wrong else 'one that does not learn'} among the wrong ones"
        )
    return optimizer


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (bool, int, float))}
