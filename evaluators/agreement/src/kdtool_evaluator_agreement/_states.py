"""Documents as tokens, and final states: computed document by document, the teacher's kept in files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_measuring import Document
from kdtool_torch import compute_dtype, write_safetensors
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["Encoded", "StateFiles", "encode", "final_states", "fitting"]


@dataclass(frozen=True)
class Encoded:
    """A document's tokens; `number` is its place among the chosen ones."""

    number: int
    id: str
    ids: tuple[int, ...]

    def cut(self, most: int) -> Encoded:
        """Return the document's first tokens, at most `most`."""
        return replace(self, ids=self.ids[:most])


class StateFiles:
    """A teacher's head in memory and its final states in `folder`, one file a document."""

    def __init__(self, folder: Path, teacher: kdtool.LanguageModel) -> None:
        self._folder = folder
        self.head = teacher.head
        self.tokenizer = teacher.tokenizer
        self.dtype = str(_dtype(teacher.head.weight)).removeprefix("torch.")

    def keep(self, document: Encoded, teacher: kdtool.LanguageModel) -> None:
        """Compute and write the teacher's states of a document."""
        write_safetensors({"last": final_states(teacher, document).cpu().contiguous()}, self._file(document))

    def of(self, document: Encoded, device: torch.device) -> Tensor:
        """Return the teacher's states [N, H_T] of a document."""
        return load_file(self._file(document))["last"].to(device)

    def _file(self, document: Encoded) -> Path:
        return self._folder / f"{document.number}.safetensors"


def fitting(model: kdtool.LanguageModel, most: int) -> int:
    """Return how many tokens of a document fit into the model's context, at most `most`."""
    context = model.facts.context
    return min(most, context + 1 - len(model.tokenizer.scoring_context)) if context else most


def encode(model: kdtool.LanguageModel, documents: Sequence[Document], most: int) -> list[Encoded]:
    """Turn documents into at most `most` tokens each; empty ones are left out."""
    found = [model.tokenizer.encode(document.text)[:most] for document in documents]
    return [
        Encoded(number, document.id, tuple(ids))
        for number, (document, ids) in enumerate(zip(documents, found, strict=True))
        if ids
    ]


def final_states(model: kdtool.LanguageModel, document: Encoded) -> Tensor:
    """Return the states [N, H] from which each of the document's N tokens is predicted.

    The first is predicted from the `scoring_context` of the model's own tokenizer.
    """
    weight, context = model.head.weight, model.tokenizer.scoring_context
    ids = torch.tensor([[*context, *document.ids]], device=weight.device)
    labels = ids[:, 1:].clone()
    labels[:, : len(context) - 1] = -100
    positions = torch.arange(ids.shape[1] - 1, device=weight.device)[None]
    batch = kdtool.Batch(
        input_ids=ids[:, :-1],
        positions=positions,
        labels=labels,
        document=torch.zeros_like(positions, dtype=torch.int32),
        row_keys=(document.id,),
    )
    model.model.eval()
    with torch.inference_mode(), _autocast(weight):
        return model.backbone(batch, kdtool.SignalRequest()).last


def _autocast(weight: Tensor) -> AbstractContextManager[Any]:
    """Compute in what is fastest on this device where the weights are in another format."""
    dtype = _dtype(weight)
    return nullcontext() if dtype == weight.dtype else torch.autocast(weight.device.type, dtype)


def _dtype(weight: Tensor) -> torch.dtype:
    """Weights in full precision compute in bfloat16 if that is faster; others stay unchanged."""
    return compute_dtype("auto", weight.device) if weight.dtype == torch.float32 else weight.dtype
