"""Decoder layers that run compiled: one compiled function for all layers of a student, set on each layer's `forward`.

Called by `Compile`. Modules are not wrapped, so names and checkpoints stay. Hooks on layers (hidden states), activation
checkpointing and the attention over packed documents, which depends on each batch, are not compiled. Neither are passes
without gradients: a phase's checks are few, and each would be compiled separately.
"""

from __future__ import annotations

import warnings
from functools import partial
from inspect import signature
from types import MethodType
from typing import Any

import kdtool
import torch
from kdtool_transformers import decoder_layers

__all__ = ["CompiledLayers"]

_BACKEND = "inductor"
# torch limits recompilations per process: earlier phases and runs must not count towards the limit.
_APART = {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}


class CompiledLayers:
    """The layers of one student during one phase."""

    def __init__(self, model: Any) -> None:
        """Compile the layers of a model of transformers; each is compiled when it first runs.

        Raises:
            UsageError: it is not a model of transformers, or another transform changed its layers.
        """
        if not hasattr(model, "base_model"):
            raise kdtool.UsageError(
                f"compile needs a model of transformers, not {type(model).__name__}; remove the transform"
            )
        self._layers = list(decoder_layers(model))
        if any("forward" in vars(layer) for layer in self._layers):
            raise kdtool.UsageError(
                "compile: the layers are compiled already, or another transform replaced their forward"
            )
        # While it reads a layer's code, torch looks at gradients of its inputs and warns of that itself.
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
        # One graph for rows of any length: which lengths came first must not decide what a resumed phase computes.
        compiled = torch.compile(_plain_forward, dynamic=True, backend=_BACKEND, **_APART)  # type: ignore[call-overload]
        for layer in self._layers:
            layer.forward = MethodType(partial(_forward, compiled), layer)

    def restore(self) -> None:
        """Restore the layers' own forward."""
        for layer in self._layers:
            del layer.forward


def _plain_forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a layer itself, without the checkpointing that transformers wraps around its class's forward."""
    forward = type(layer).forward
    return getattr(forward, "__wrapped__", forward)(layer, *args, **kwargs)


def _forward(compiled: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return type(layer).forward(layer, *args, **kwargs)
    if layer.training and getattr(layer, "gradient_checkpointing", False):
        return layer._gradient_checkpointing_func(partial(compiled, layer, **kwargs), *args)
    return compiled(layer, *args, **kwargs)
