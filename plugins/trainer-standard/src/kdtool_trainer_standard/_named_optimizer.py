"""The optimizer that the recipe names for a phase, made and checked. Called by the loop and by the estimate."""

from __future__ import annotations

import kdtool
import torch
from torch import nn

__all__ = ["make_named_optimizer", "named_optimizer"]


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


def make_named_optimizer(
    component: kdtool.Optimizer, run: kdtool.RunInfo, module: nn.Module, learning_rate: float
) -> torch.optim.Optimizer:
    """Return the component's optimizer of all parameters of the module that learn.

    Raises:
        PluginError: it returned something else, or left out a parameter, or has one twice.
    """
    learned = ((name, weight) for name, weight in module.named_parameters() if weight.requires_grad)
    parameters = {name.removeprefix("student."): weight for name, weight in learned}
    optimizer = component.kdtool_optimizer(run, parameters, learning_rate)
    owner = run.hook.owner(run.implementing("kdtool_optimizer")[0])
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
