"""Optimizers that the trainer of their phase does not use, or whose settings it has too."""

from __future__ import annotations

from collections.abc import Iterator

from kdtool._assembly.built import BuiltRecipe
from kdtool._contract.trainer import Trainer
from kdtool._errors import Problem
from kdtool._recipe.layers import as_written
from kdtool._recipe.model import ComponentSpec


def check_optimizers(parts: BuiltRecipe) -> Iterator[Problem]:
    """Yield the optimizers that a trainer ignores, and the trainer's settings that an optimizer replaces."""
    pairs = ((phase.trainer, phase.optimizer) for phase in parts.phases if phase.trainer and phase.optimizer)
    for trainer, optimizer in {
        (trainer.key, optimizer.key): (trainer, optimizer) for trainer, optimizer in pairs
    }.values():
        yield from _check(parts, trainer, optimizer)


def _check(parts: BuiltRecipe, trainer: ComponentSpec, optimizer: ComponentSpec) -> Iterator[Problem]:
    component: Trainer = parts.component(trainer)
    if component.optimizer_settings is None:
        message = f"is not used by the trainer {trainer.use!r}, which has its own optimizer"
        yield parts.problem(optimizer.key, message, "leave `optimizer` out, or use another trainer, such as `standard`")
    for setting in component.optimizer_settings or ():
        if setting in trainer.options:
            key = as_written(optimizer.key)
            message = f"belongs to the trainer's own optimizer, which `{key}` replaces"
            remedy = f"set `{key}.{setting}` if {optimizer.use!r} has this setting; else leave one of them out"
            yield parts.problem((*trainer.key, setting), message, remedy)
