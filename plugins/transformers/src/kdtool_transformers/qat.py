"""Linear layers on a grid: torchao's fake quantisation while a phase trains, ordinary weights on the grid afterwards.

Called by `Qat`. The grid is that of torchao's int4 kernels: unsigned integers in groups of a row, each with a scale and a
floating-point offset, so that a group's least and greatest weights are on the grid and rounding twice equals rounding once.
Embeddings and head keep all their bits: trainers compute with the head's own weight, which most small models share with the
embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kdtool
import torch
from kdtool_torch import isolated_rng, require_same_logits
from torch import nn
from torchao.quantization import quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
from torchao.quantization.qat.linear import FakeQuantizedLinear
from torchao.quantization.quant_primitives import ZeroPointDomain


class Grid:
    """The layers of one student that are on a grid during one phase."""

    def __init__(self, student: kdtool.LanguageModel, config: Any, say: Callable[[str], None]) -> None:
        """Put the student's linear layers on the grid; `say` receives a message about layers that stay off it.

        `config` is that of `Qat`.

        Raises:
            UsageError: no layer fits the grid, or another transform has changed them already.
        """
        self._student, self._model = student, student.model
        fitting, other = _linear_layers(student, config.group_size)
        if other:
            rows = ", ".join(sorted({f"{layer.in_features}" for layer in other.values()}))
            names = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in other))
            say(
                f"qat: all bits stay in {kdtool.count_of(len(other), 'linear layer')} ({names}): {rows} weights per row "
                f"is not a multiple of group_size {config.group_size}"
            )
        scheme = IntxFakeQuantizeConfig(
            getattr(torch, f"uint{config.bits}"),
            group_size=config.group_size,
            is_symmetric=False,
            zero_point_precision=torch.float32,
            zero_point_domain=ZeroPointDomain.FLOAT,
        )
        self._replace(QATConfig(weight_config=scheme, step="prepare"), set(fitting))

    def settle(self) -> None:
        """Make the student a plain model again, whose weights are those that it computed with: on the grid.

        Raises:
            PluginError: its logits changed.
        """
        layers = {name: each for name, each in self._model.named_modules() if isinstance(each, FakeQuantizedLinear)}
        with require_same_logits(self._student, "writing weights on the grid"):
            with torch.no_grad():
                for layer in layers.values():
                    layer.weight.copy_(layer.weight_fake_quantizer(layer.weight))
            self._replace(QATConfig(step="convert"), set(layers))

    def _replace(self, config: Any, names: set[str]) -> None:
        training = {name: self._model.get_submodule(name).training for name in names}
        with isolated_rng():  # torchao draws weights for new layers before it gives them the old ones
            quantize_(self._model, config, filter_fn=lambda _, name: name in names)
        for name, mode in training.items():
            self._model.get_submodule(name).train(mode)


def _linear_layers(student: kdtool.LanguageModel, group_size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the linear layers except the head: those with rows of whole groups, and the others."""
    head, name = student.head.weight, type(student.model).__name__
    layers = {
        path: module
        for path, module in student.model.named_modules()
        if isinstance(module, nn.Linear) and module.weight is not head
    }
    if not layers:
        raise kdtool.UsageError(
            f"qat rounds layers of class torch.nn.Linear, and {name} has none: remove the transform"
        )
    for path, module in layers.items():
        if type(module) is not nn.Linear or getattr(student.model, "peft_config", None):
            made = "has adapters" if getattr(student.model, "peft_config", None) else f"is a {type(module).__name__}"
            raise kdtool.UsageError(
                f"qat rounds plain linear layers, and {path} {made}, because of another transform of this phase: "
                "give qat its own phase, after that transform"
            )
    fitting = {path: module for path, module in layers.items() if module.in_features % group_size == 0}
    if not fitting:
        rows = ", ".join(str(size) for size in sorted({module.in_features for module in layers.values()}))
        raise kdtool.UsageError(
            f"group_size: no row of {name}'s linear layers is a multiple of {group_size}; rows have {rows} weights: take a "
            "size that divides them"
        )
    return fitting, {path: module for path, module in layers.items() if path not in fitting}
