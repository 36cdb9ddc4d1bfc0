"""Write a causal language model as one ONNX graph with a key-value cache, by `transformers.exporters`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdtool_exporter_onnx._int8 import quantise

__all__ = ["write_graph"]

_NOISY = ("torch.onnx", "transformers.exporters", "onnxscript", "onnx_ir", "root")


def write_graph(model: Any, folder: Path, *, int8: bool) -> None:
    """Write `model.onnx`, its weights next to it, config.json and export.json into a folder.

    The graph reads any number of tokens of any number of texts after a cache, which may be empty: it serves the prompt and
    every token after it. `attention_mask` covers cache and tokens. `int8`: matrices of products, and an embedding that is
    one of them, have 8 bits.
    """
    from transformers.exporters import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    inputs = _sample(model)
    config = OnnxConfig(
        dynamic=True,
        dynamic_shapes={name: _varying(value) for name, value in inputs.items()},
        ort_fusions="cpu",
    )
    with _quiet():
        exported = OnnxExporter().export(model.eval(), inputs, config)
    if int8:
        quantise(exported.components["model"].program.graph)
    exported.generation_config = model.generation_config
    exported.save_pretrained(folder)


def _sample(model: Any) -> dict[str, Any]:
    """Return the inputs of a step of two tokens after a cache, for two texts; one of them is padded."""
    from transformers.exporters.utils import decompose_for_generation

    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(14).reshape(2, 7) % vocabulary
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    _, inputs = decompose_for_generation(model, {"input_ids": ids, "attention_mask": mask}, multi_token_decode=True)[
        "decode"
    ]
    return {name: value for name, value in inputs.items() if name not in {"use_cache", "return_dict"}}


def _varying(value: Any) -> Any:
    """Name the dimensions that vary: texts and tokens, and of keys and values texts and cached tokens.

    With these named, the rest is fixed, and tracing takes a fraction of the time.
    """
    varies = torch.export.Dim.AUTO
    if isinstance(value, Tensor):
        return {0: varies, 1: varies}
    return [{0: varies, 2: varies} for _ in range(2 * len(value.layers))]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out notes of the libraries on their progress, versions and inner workings."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
