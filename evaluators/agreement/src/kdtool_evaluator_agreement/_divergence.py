"""KL(teacher ‖ student) and top-1 agreement of a document, from the final states of both models.

States are computed document by document; the teacher's are kept in files. Logits exist for a chunk of positions only, never
as [N, V].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import kdtool
import torch
from kdtool_measuring import Document
from kdtool_torch import compute_dtype, exact_head, exact_logits, move, write_safetensors
from safetensors.torch import load_file
from torch import Tensor

_HEAD, _FACTS = "head.safetensors", "teacher.json"
"""Files next to the states of each document."""


@dataclass(frozen=True)
class Encoded:
    """A document's tokens; `number` is its place among the chosen ones."""

    number: int
    id: str
    ids: tuple[int, ...]

    def cut(self, most: int) -> Encoded:
        """Return the document's first tokens, at most `most`."""
        return replace(self, ids=self.ids[:most])


@dataclass(frozen=True, eq=False)
class TeacherFiles:
    """A teacher's head and its final states, one file a document, in `folder`.

    `length` is the number of tokens after which documents are cut, `dtype` the format that the states were computed in,
    `identity` names the teacher's weights.
    """

    folder: Path
    tokenizer: kdtool.Tokenizer
    head: kdtool.Head
    length: int
    dtype: str
    identity: str

    @classmethod
    def record(
        cls,
        folder: Path,
        teacher: kdtool.LanguageModel,
        documents: Sequence[Document],
        length: int,
        identity: str,
        progress: Callable[[], None],
    ) -> Self:
        """Compute and write the teacher's states of documents, cut after `length` tokens or where its context ends."""
        length, dtype = fitting(teacher, length), dtype_of_states(teacher)
        files = cls(folder, teacher.tokenizer, teacher.head, length, dtype, identity)
        folder.mkdir(exist_ok=True)
        tensors = {"weight": teacher.head.weight, "bias": teacher.head.bias}
        write_safetensors(
            {name: each.detach().cpu().contiguous() for name, each in tensors.items() if each is not None},
            folder / _HEAD,
        )
        for document in files.encode(documents):
            states = final_states(teacher, document).cpu().contiguous()
            write_safetensors({"last": states}, files._file(document))
            progress()
        head = {name: getattr(teacher.head, name) for name in ("vocabulary", "scale", "soft_cap")}
        facts = {"head": head, "length": length, "dtype": dtype, "identity": identity}
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        return files

    @classmethod
    def read(cls, folder: Path, tokenizer: kdtool.Tokenizer) -> Self | None:
        """Return the files in `folder` of the teacher with this tokenizer; None if there are none."""
        if not (folder / _FACTS).exists():
            return None
        facts, tensors = json.loads((folder / _FACTS).read_bytes()), load_file(folder / _HEAD)
        head = kdtool.Head(tensors["weight"], bias=tensors.get("bias"), **facts.pop("head"))
        return cls(folder, tokenizer, head, **facts)

    def encode(self, documents: Sequence[Document]) -> list[Encoded]:
        """Turn documents into the teacher's tokens, `length` at most of each; empty ones are left out."""
        found = [self.tokenizer.encode(document.text)[: self.length] for document in documents]
        return [
            Encoded(number, document.id, tuple(ids))
            for number, (document, ids) in enumerate(zip(documents, found, strict=True))
            if ids
        ]

    def states(self, document: Encoded, device: torch.device) -> Tensor:
        """Return the teacher's states [N, H_T] of a document."""
        return load_file(self._file(document))["last"].to(device)

    def _file(self, document: Encoded) -> Path:
        return self.folder / f"{document.number}.safetensors"


def fitting(model: kdtool.LanguageModel, most: int) -> int:
    """Return how many tokens of a document fit into the model's context, at most `most`."""
    context = model.facts.context
    return min(most, context + 1 - len(model.tokenizer.scoring_context)) if context else most


def dtype_of_states(model: kdtool.LanguageModel) -> str:
    """Return the format in which a model's final states are computed here, such as "bfloat16"."""
    return str(_dtype(model.head.weight)).removeprefix("torch.")


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


_ROWS = 256


@dataclass(frozen=True)
class Found:
    """At each of a document's tokens: the divergence in nats, and whether both rank the same token first."""

    divergence: Tensor
    same_first: Tensor


def heads_of(student: kdtool.LanguageModel, teacher: TeacherFiles, shared: int) -> tuple[kdtool.Head, kdtool.Head]:
    """Return the heads of student and teacher in float32, over the first `shared` tokens, for all documents."""
    own, other = student.head, move(teacher.head, student.head.weight.device)
    return exact_head(replace(own, vocabulary=shared)), exact_head(replace(other, vocabulary=shared))


def agreement(
    student: kdtool.LanguageModel, document: Encoded, teacher: TeacherFiles, heads: tuple[kdtool.Head, kdtool.Head]
) -> Found:
    """Compare a student with its teacher's states on one document.

    KL = Σ_v t(v) (log t(v) − log s(v)) at temperature 1, in float32, over the tokens of `heads`, which are the true
    vocabulary if both have the same; 0 when both agree. Later tokens change nothing at a token, so
    the teacher's states may cover more tokens than the document has here.
    """
    divergence, same_first, (student_head, teacher_head) = [], [], heads
    student_states = final_states(student, document)
    teacher_states = teacher.states(document, student_head.weight.device)[: len(document.ids)]
    for start in range(0, len(document.ids), _ROWS):
        rows = slice(start, start + _ROWS)
        with torch.inference_mode():
            student_log = exact_logits(student_head, student_states[rows]).log_softmax(-1)
            teacher_log = exact_logits(teacher_head, teacher_states[rows]).log_softmax(-1)
            divergence.append((teacher_log.exp() * (teacher_log - student_log)).sum(-1).cpu())
            same_first.append((teacher_log.argmax(-1) == student_log.argmax(-1)).cpu())
    return Found(torch.cat(divergence), torch.cat(same_first))
