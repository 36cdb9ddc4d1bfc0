"""Layers of one student that compute faster during a phase: compiled by torch, or with liger's kernels.

Called by `Compile` and `Liger`. Only instances get another `forward`, and get their own back afterwards, so names,
checkpoints, other models and other runs do not change.

Compiled: one function for all decoder layers. Hooks on layers (hidden states), activation checkpointing and the attention
over packed documents, which depends on each batch, are not compiled. Neither are passes without gradients: a phase's checks
are few, and each would be compiled separately. torch.compile needs a C++ compiler and Python's headers for a CPU, and Triton
for a GPU, which is checked before anything is made.

liger's kernels: norms, SwiGLU, and the rotation of queries and keys. liger's own functions for whole models replace classes
and functions of transformers for the process, even if they are given a model.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_torch import pick_device
from torch import Tensor, nn

from kdtool_transformers.attention import decoder_layers

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
            layer.forward = MethodType(partial(_compiled_forward, compiled), layer)

    def restore(self) -> None:
        """Restore the layers' own forward."""
        for layer in self._layers:
            del layer.forward


def _plain_forward(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a layer itself, without the checkpointing that transformers wraps around its class's forward."""
    forward = type(layer).forward
    return getattr(forward, "__wrapped__", forward)(layer, *args, **kwargs)


def _compiled_forward(compiled: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return type(layer).forward(layer, *args, **kwargs)
    if layer.training and getattr(layer, "gradient_checkpointing", False):
        return layer._gradient_checkpointing_func(partial(compiled, layer, **kwargs), *args)
    return compiled(layer, *args, **kwargs)


_COMPILERS = {"win32": "cl", "darwin": "clang++"}
_GET_COMPILER = {
    "win32": "install Visual Studio's build tools with C++ and start kdtool from their command prompt",
    "darwin": "xcode-select --install",
}


def missing_to_compile() -> list[str]:
    """Return the missing parts, each with its remedy."""
    leave = "or leave `compile` out"
    if pick_device().type == "cuda":
        return (
            []
            if find_spec("triton")
            else [f"Triton, which compiles for GPUs, is not installed: pip install triton, {leave}"]
        )
    problems = []
    compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        get = _GET_COMPILER.get(
            sys.platform, "apt install g++ (or what your system calls it), or name one in the variable CXX"
        )
        problems.append(f"there is no C++ compiler called {compiler}: {get}, {leave}")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        problems.append(
            f"Python's header files are missing: apt install python3-dev (or what your system calls it), {leave}"
        )
    return problems


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
        replaced = dict(_fused_forwards(model, kernels()))
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


def _fused_forwards(model: nn.Module, fused: Kernels) -> Iterator[tuple[Any, Callable[..., Any]]]:
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
            yield module, _forward_with(type(module), **{_ROTATION: rotate})


def _forward_with(cls: type[nn.Module], **names: Any) -> Callable[..., Any]:
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
