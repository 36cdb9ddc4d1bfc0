"""Groups of parameters: names that match a pattern, with a separate learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import kdtool
from kdtool import Field

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Betas", "Group", "GroupedConfig", "group_parameters", "refuse_unmatched"]

Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]


class Group(kdtool.Config):
    """Parameters whose names match a pattern, and their settings."""

    match: str = Field(min_length=1)
    """Pattern of names such as `model.layers.0.mlp.up_proj.weight`; `*` matches any characters."""
    learning_rate: float = Field(default=1.0, ge=0, le=1000)
    """Multiple of the trainer's learning rate."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Weight decay of these parameters; by default the optimizer's, and 0 for norms and biases."""


class GroupedConfig(kdtool.Config):
    """Weight decay, and settings by groups of parameters."""

    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay, multiplied by the learning rate; norms and biases are left out."""
    groups: tuple[Group, ...] = ()
    """Parameters with other settings. The first group whose pattern matches a name counts."""


def refuse_unmatched(parameters: Mapping[str, Tensor], config: GroupedConfig) -> None:
    """Refuse a group whose pattern matches no parameter.

    Raises:
        UsageError: there is such a group.
    """
    for group in config.groups:
        if not any(fnmatchcase(name, group.match) for name in parameters):
            raise kdtool.UsageError(
                f"groups: {group.match!r} matches none of the {len(parameters)} trained parameters; expected a pattern of "
                f"names such as {next(iter(parameters), '')!r}; correct it, or leave the group out"
            )


def group_parameters(
    parameters: Mapping[str, Tensor], config: GroupedConfig, learning_rate: float
) -> list[dict[str, Any]]:
    """Return the parameters in groups as `torch.optim` takes them, each with its `lr` and `weight_decay`.

    Parameters with one dimension, such as norms and biases, have no weight decay unless their group sets it.
    """
    grouped: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        group = next((group for group in config.groups if fnmatchcase(name, group.match)), Group(match="*"))
        default = config.weight_decay if parameter.ndim > 1 else 0.0
        decay = default if group.weight_decay is None else group.weight_decay
        grouped.setdefault((group.learning_rate * learning_rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in grouped.items()]
