"""Importance matrices: how much each column of a matrix matters, by the inputs that it meets in training text.

A column's importance is the mean of its squared inputs, as llama.cpp's `llama-imatrix` computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import kdtool
import numpy as np
import torch
from kdtool_torch import eval_mode
from kdtool_transformers import without_weights
from numpy.typing import NDArray
from torch import Tensor, nn

from kdtool_exporter_gguf._held_text import WINDOW
from kdtool_exporter_gguf._names import names_in_file

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel

__all__ = ["final_states", "measure_importance", "read_importance", "require_fitting", "write_importance"]

Importance = Mapping[str, NDArray[np.float32]]
"""A weight for each column, by the tensor's name in a GGUF file."""


def measure_importance(model: TransformersModel, windows: Sequence[Sequence[int]]) -> Importance:
    """Return the mean squared input of each column of each layer's matrices, while the model reads windows of tokens."""
    sums = {name: torch.zeros(_width(module), dtype=torch.float64) for name, module in _matrices(model.model)}

    def observe(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sums[name] += inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float().square().sum(0).double().cpu()

        return add

    with ExitStack() as hooks:
        for name, module in _matrices(model.model):
            hooks.callback(module.register_forward_pre_hook(observe(name)).remove)
        for _ in final_states(model, windows):
            pass
    count = sum(map(len, windows))
    return {name: (total / count).float().numpy() for name, total in sums.items()}


def final_states(model: TransformersModel, windows: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Yield the final states [tokens, H] of each window, which is read by itself."""
    device = model.head.weight.device
    with eval_mode(model.model):
        for window in windows:
            ids = torch.tensor([window], device=device)
            positions = torch.arange(len(window), device=device)[None]
            batch = kdtool.Batch(ids, positions, ids, torch.zeros_like(ids, dtype=torch.int32), ("",))
            yield model.backbone(batch, kdtool.SignalRequest()).last


def write_importance(importance: Importance, tokens: int, dataset: str, file: Path) -> None:
    """Write an importance matrix as llama.cpp's programs read and write it (`--imatrix`)."""
    writer = gguf.GGUFWriter(file, "imatrix")
    writer.add_type("imatrix")
    writer.add_array(gguf.Keys.IMatrix.DATASETS, [dataset])
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, max(1, tokens // WINDOW))
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, WINDOW)
    for name, mean in importance.items():
        writer.add_tensor(f"{name}.in_sum2", (mean * tokens)[None])
        writer.add_tensor(f"{name}.counts", np.full((1, 1), tokens, dtype=np.float32))
    with closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def read_importance(file: Path) -> Importance:
    """Read an importance matrix in GGUF.

    Raises:
        UsageError: the file cannot be read, or contains none.
    """
    try:
        stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
        importance = {
            name.removesuffix(".in_sum2"): values.reshape(-1)
            / max(1.0, float(stored[f"{name.removesuffix('.in_sum2')}.counts"].max()))
            for name, values in stored.items()
            if name.endswith(".in_sum2")
        }
    except (OSError, ValueError, LookupError) as error:
        raise kdtool.UsageError(
            f"gguf.imatrix: {file} cannot be read ({error}); expected a file of llama-imatrix in GGUF, `text`, or `none`"
        ) from error
    if not importance:
        raise kdtool.UsageError(
            f"gguf.imatrix: {file} contains no importance matrix; expected a file of llama-imatrix in GGUF"
        )
    return importance


def require_fitting(importance: Importance, config: Any, file: Path) -> None:
    """Refuse an importance matrix of another model, given the student's configuration.

    Raises:
        UsageError: a matrix is missing, or has another number of columns.
    """
    for name, module in _matrices(without_weights(config)):
        width = _width(module)
        if name not in importance or importance[name].size != width:
            difference = f"has {importance[name].size} columns of {name}" if name in importance else f"lacks {name}"
            raise kdtool.UsageError(
                f"gguf.imatrix: {file} {difference}, and the student's have {width}, so it is of another model; "
                "make one of this student, or set imatrix: text"
            )


def _matrices(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the matrices of a model's layers, each by the name of its weight in a GGUF file."""
    name_in_file = names_in_file(model.config)
    modules = ((f"{name_in_file(name)}.weight", module) for name, module in model.named_modules())
    return [
        (name, module)
        for name, module in modules
        if name.startswith("blk.") and getattr(getattr(module, "weight", None), "ndim", 0) == 2
    ]


def _width(module: nn.Module) -> int:
    """Return the number of a matrix's columns: a `Conv1D` of transformers stores it transposed."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight.shape[1 if isinstance(module, nn.Linear) else 0]
