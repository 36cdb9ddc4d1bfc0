"""Refuse an export from the student's outline, before the student is built."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool
from kdtool_transformers import AbsentTokenizer, TransformersModel, without_weights

from kdtool_exporter_gguf._architectures import require_architecture
from kdtool_exporter_gguf._names import names_in_file
from kdtool_exporter_gguf._pre_tokenizer import name_of_splitting
from kdtool_exporter_gguf._tensor_types import ModelShape, stored_bytes, tensor_type
from kdtool_exporter_gguf.gguf_file import require_gguf

__all__ = ["estimated_bytes", "open_questions"]


def open_questions(ahead: kdtool.RunForecast) -> Iterator[str]:
    """Yield the questions that only the downloaded tokenizer can answer.

    Raises:
        UsageError: llama.cpp does not support the student, or its tokenizer if that is on this machine.
    """
    outlines = [phase.outline for phase in ahead.phases if phase.arm == "student"]
    outline = outlines[-1] if outlines else None
    if not isinstance(outline, TransformersModel):
        yield "whether the student can be written as GGUF cannot be known before it is built"
        return
    tokenizer = outline.tokenizer
    if not isinstance(tokenizer, AbsentTokenizer):
        require_gguf(outline.model.config, tokenizer)
        name_of_splitting(tokenizer)
        return
    require_architecture(outline.model.config)
    yield "whether llama.cpp follows its tokenizer in everything cannot be known before that is downloaded"


def estimated_bytes(ahead: kdtool.RunForecast, mix: str) -> int:
    """Return the size of the student's file, without its vocabulary; of an unknown shape, at one byte for each weight."""
    outlines = [phase.outline for phase in ahead.phases if phase.arm == "student"]
    outline = outlines[-1] if outlines else None
    if not isinstance(outline, TransformersModel):
        return ahead.models[ahead.student].parameters
    config = outline.model.config
    shape, name_in_file = ModelShape.of(config), names_in_file(config)
    sizes = {
        f"{name_in_file(name.removesuffix('.weight'))}.weight": tuple(weight.shape)
        for name, weight in without_weights(config).named_parameters()  # the outline may have adapters
    }
    return sum(stored_bytes(tensor_type(mix, name, size, shape, weighted=True), size) for name, size in sizes.items())
