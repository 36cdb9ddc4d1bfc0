"""Modules of one model that compute with liger's kernels: norms, SwiGLU, and the rotation of queries and keys.

Called by `Liger`. liger's own functions for whole models replace classes and functions of transformers for the process, even
if they are given a model; here only instances get another `forward`, so that other models and runs do not change.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import kdtool
from torch import Tensor, nn

__all__ = ["FAMILIES", "FusedModules", "Kernels", "kernels"]

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Families with the norm x / rms(x) · weight, rotary positions on halves, and SwiGLU."""

_ROTATION = "apply_rotary_pos_emb"


class Kernels(NamedTuple):
    """liger's functions, as `liger_kernel.transformers.functional` has them."""

    rms_norm: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]
    rope: Callable[..., tuple[Tensor, Tensor]]


def kernels() -> Kernels:
    """Import liger-kernel, and Triton with it."""
    from liger_kernel.transformers.functional import liger_rms_norm, liger_rope, liger_swiglu

    return Kernels(liger_rms_norm, liger_swiglu, liger_rope)


class FusedModules:
    """The modules of one model that compute with liger's kernels during one phase."""

    def __init__(self, model: Any) -> None:
        """Give the modules of a model of transformers another `forward`.

        Raises:
            UsageError: its family is not in `FAMILIES`, or another transform has changed a module's forward.
        """
        family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        if family not in FAMILIES or model.config.hidden_act not in {"silu", "swish"}:
            raise kdtool.UsageError(
                f"liger is for models of {', '.join(FAMILIES)} with SwiGLU, not {family}: leave it out"
            )
        replaced = dict(_replace(model, kernels()))
        taken = [type(module).__name__ for module in replaced if "forward" in vars(module)]
        if taken:
            raise kdtool.UsageError(f"liger: another transform has replaced what a {taken[0]} computes")
        for module, forward in replaced.items():
            module.forward = MethodType(forward, module)
        self._modules = list(replaced)

    def restore(self) -> None:
        """Have the modules compute as before."""
        for module in self._modules:
            del module.forward


def _replace(model: nn.Module, fused: Kernels) -> Iterator[tuple[Any, Callable[..., Any]]]:
    def norm(module: Any, hidden_states: Tensor) -> Tensor:
        # Not in place: what is given backward may be somebody else's, too.
        return fused.rms_norm(hidden_states, module.weight, module.variance_epsilon, 0.0, "llama", False)

    def feed_forward(module: Any, x: Tensor) -> Tensor:
        down: Tensor = module.down_proj(fused.swiglu(module.gate_proj(x), module.up_proj(x)))
        return down

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        return fused.rope(q, k, cos, sin, None, unsqueeze_dim)

    for module in model.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            yield module, norm
        elif name.endswith("MLP"):
            yield module, feed_forward
        elif name.endswith("Attention"):
            yield module, _with(type(module), **{_ROTATION: rotate})


def _with(cls: type[nn.Module], **names: Any) -> Callable[..., Any]:
    """Return a copy of a class's forward that sees `names` in place of those of its module, which is unchanged."""
    forward = inspect.unwrap(cls.forward)
    missing = names.keys() - set(forward.__code__.co_names)
    if missing:
        raise kdtool.PluginError(f"{cls.__name__} of this version of transformers does not call {', '.join(missing)}")
    copy = FunctionType(
        forward.__code__, {**forward.__globals__, **names}, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy
