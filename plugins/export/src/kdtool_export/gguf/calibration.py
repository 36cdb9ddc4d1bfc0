"""Text to calibrate and compare on, and importance matrices: how much each column of a matrix matters on that text.

A column's importance is the mean of its squared inputs, as llama.cpp's `llama-imatrix` computes it. `prepare` returns
what several files of one student share: windows of text, the student's states on them, and the importance of columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gguf
import kdtool
import numpy as np
import torch
from kdtool_measuring import held_out
from kdtool_torch import eval_mode
from kdtool_transformers import TransformersTokenizer, weights_identity
from numpy.typing import NDArray
from torch import Tensor, nn

from kdtool_export.gguf.files import names_in_file
from kdtool_export.gguf.settings import CALIBRATE, WEIGHTED, GGUFConfig
from kdtool_export.shared import measured_texts

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel

Importance = Mapping[str, NDArray[np.float32]]
"""A weight for each column, by the tensor's name in a GGUF file."""


class Prepared(NamedTuple):
    """Held-out windows of tokens, the student's final states on each, and the importance of columns.

    `calibrated` is the number of training tokens that the importance was computed on; 0 if it is None.
    """

    windows: Sequence[Sequence[int]]
    states: Sequence[Tensor]
    importance: Importance | None
    calibrated: int


_kept: dict[str, Prepared] = {}
"""The last answer: the exporters of a run follow each other, and ask the same of the same student."""


def prepare(run: kdtool.RunInfo, student: TransformersModel, trained: Path, config: GGUFConfig) -> Prepared:
    """Return what the export of a student needs; a second export in this process gets the first one's answer."""
    calibrate = CALIBRATE if config.type in WEIGHTED and config.imatrix == "text" else 0
    calibrating, windows = windows_of(
        run, student.tokenizer, student.facts.context, calibrate=calibrate, measure=config.compare
    )
    key = sha256(repr([weights_identity(trained), calibrating, windows]).encode()).hexdigest()
    if key not in _kept:
        importance = measure_importance(student, calibrating) if calibrating else None
        _kept.clear()
        _kept[key] = Prepared(windows, [*final_states(student, windows)], importance, sum(map(len, calibrating)))
    return _kept[key]


WINDOW = 512
"""Tokens of a window at most, with the tokens before its text."""
_CHARACTERS = 8000


def windows_of(
    run: kdtool.RunInfo, tokenizer: TransformersTokenizer, context: int, *, calibrate: int, measure: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return windows of training text (`calibrate` tokens; none if the run has no such text) and of other, held-out text.

    A window fits into the model's `context` (0: not known). Held-out text is that of the split test, else validation, else a
    sample; no document of it is calibrated on.
    """
    held = measured_texts(run, _most_documents(measure), _CHARACTERS)
    trained = held_out(run, "train", most=_most_documents(calibrate), characters=_CHARACTERS) if calibrate else []
    texts = [document.text for document in trained if document.text not in {*held}]
    size = min(WINDOW, context or WINDOW)
    return _windows(texts, tokenizer, size, calibrate), _windows(held, tokenizer, size, measure)


def _most_documents(tokens: int) -> int:
    """Return a number of documents that contains `tokens` tokens, if a document has a quarter of a window."""
    return max(16, tokens // (WINDOW // 4))


def _windows(texts: list[str], tokenizer: TransformersTokenizer, size: int, tokens: int) -> list[list[int]]:
    """Cut each text into windows of `size` that begin as a document does, until there are `tokens`."""
    context, windows = tokenizer.scoring_context, []
    size -= len(context)
    for text in texts:
        ids = tokenizer.encode(text)
        parts = (ids[start : start + size] for start in range(0, len(ids), size))
        windows += [[*context, *part] for part in islice(parts, 2)]
    total = 0
    for number, window in enumerate(windows):
        total += len(window)
        if total >= tokens:
            return windows[: number + 1]
    return windows


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
