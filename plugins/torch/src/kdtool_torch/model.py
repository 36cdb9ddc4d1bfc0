"""Whole models: evaluation mode, start-up checks, memory of rewritten weights, layers and pairs of them.

A trainer calls `self_check` once before its first step; transforms that rewrite a trained model do so under
`require_same_logits`, so that wrapping and rewriting fail loudly. Each takes well under a second for small models.

Opened weights are pages of a mapped file, which stay in memory until the last weight of that file is gone. Where all
weights of a model are converted, one by one, those that are no longer needed go back to the system at once.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import kdtool

from kdtool_torch.numerics import eval_mode, not_finite, product_dtype

if TYPE_CHECKING:
    from torch import Tensor, nn


_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 2e-2}
_REWRITTEN_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Tolerance of rewritten logits, by the coarsest dtype of the result: a rounding or two of its weights."""


def self_check(language_model: kdtool.LanguageModel, tolerance: float | None = None) -> float:
    """Compare head(backbone(x)) of two packed documents with the model's own logits of each document by itself.

    Finds a head that is scaled, capped or biased differently from `LanguageModel.head`, and documents that see each other.
    Returns the root mean square of the deviation relative to the logits' standard deviation. A model with weights of
    several dtypes needs autocast around the call, as in training.

    Raises:
        KdtoolError: the logits are not finite.
        PluginError: the deviation is above `tolerance`: by default 0.001 in float32. In half precision, autocast's included,
            more is allowed, and a model that deviates more still is compared in float32.
    """
    model = language_model.model
    limit = _tolerance(language_model.head.weight) if tolerance is None else tolerance
    deviations = _deviations(language_model)
    # Parameters of spread or divided models cannot be widened here.
    whole = not any(each.is_meta or hasattr(each, "full_tensor") for each in model.parameters())
    if whole and tolerance is None and limit > _TOLERANCE["float32"] and not all(each <= limit for each in deviations):
        with _in_float32(model):  # a model may amplify the rounding of few bits; an error is one in float32, too
            limit, deviations = _TOLERANCE["float32"], _deviations(language_model)
    if not all(map(isfinite, deviations)):
        raise not_finite(model)
    if max(deviations) > limit:
        what = "its documents see each other" if deviations[0] <= limit else "its head is not what kdtool takes it for"
        raise kdtool.PluginError(
            f"{type(model).__name__} fails the start-up check, {what}: logits deviate by {deviations[0]:.2g} in the first "
            f"document and {deviations[1]:.2g} in the second (in standard deviations; allowed {limit:g})"
        )
    return max(deviations)


def _deviations(language_model: kdtool.LanguageModel) -> list[float]:
    """Return the deviation of each of two packed documents from the document by itself, in standard deviations of logits."""
    import torch

    model, vocabulary = language_model.model, language_model.head.vocabulary
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, 24), generator=generator).to(language_model.head.weight.device)
    lengths = [9, 15]
    with eval_mode(model):
        outputs = language_model.backbone(_pack(ids, lengths), kdtool.SignalRequest())
        packed = language_model.head.logits(outputs.last).float()
        parts = torch.split(ids, lengths, dim=1)
        alone = torch.cat([model(input_ids=part, use_cache=False).logits[0] for part in parts])
    alone = alone[:, :vocabulary].float()
    pairs = zip(torch.split(packed, lengths), torch.split(alone, lengths), strict=True)
    return [float((a - b).square().mean().sqrt() / alone.std()) for a, b in pairs]


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Compute in float32 in the block, on copies of weights that have fewer bits."""
    import torch

    narrow = [each for each in model.parameters() if each.dtype in (torch.bfloat16, torch.float16)]
    kept = [each.data for each in narrow]
    try:
        for each in narrow:
            each.data = each.data.float()
        with torch.autocast(model.get_input_embeddings().weight.device.type, enabled=False):
            yield
    finally:
        for each, data in zip(narrow, kept, strict=True):
            each.data = data


def _tolerance(weight: Tensor) -> float:
    """Return what the coarsest dtype of a product with `weight` may change of logits."""
    return max(_TOLERANCE[str(dtype).removeprefix("torch.")] for dtype in (weight.dtype, product_dtype(weight)))


@contextmanager
def require_same_logits(language_model: kdtool.LanguageModel, what: str) -> Iterator[None]:
    """Check that rewriting a model in the block keeps its logits.

    Compares logits over a few drawn tokens without dropout, as a root mean square in standard deviations of the logits:
    0.001 in float32, 0.01 in float16, 0.05 in bfloat16 are allowed. `what` names the rewriting: "merging the adapters".

    Raises:
        PluginError: the logits changed by more, or are not finite.
    """
    before = _drawn_logits(language_model)
    yield
    after = _drawn_logits(language_model)
    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in language_model.model.parameters()}
    dtype = max(dtypes & _REWRITTEN_TOLERANCE.keys(), key=_REWRITTEN_TOLERANCE.__getitem__)
    away = float((after - before).square().mean().sqrt() / before.std())
    if not away <= _REWRITTEN_TOLERANCE[dtype]:
        raise kdtool.PluginError(
            f"{what} changed the logits of {type(language_model.model).__name__} by {away:.2g} of their standard deviation; "
            f"at most {_REWRITTEN_TOLERANCE[dtype]:g} is expected of weights in {dtype}. Not finite means that training "
            "diverged; else give the student a dtype of more precision"
        )


def _drawn_logits(language_model: kdtool.LanguageModel) -> Tensor:
    """Return logits of one short document, as trainers compute them."""
    import torch

    head = language_model.head
    ids = torch.randint(head.vocabulary, (1, 32), generator=torch.Generator().manual_seed(0)).to(head.weight.device)
    with eval_mode(language_model.model):
        return head.logits(language_model.backbone(_pack(ids, [ids.shape[1]]), kdtool.SignalRequest()).last).float()


def _pack(ids: Tensor, lengths: list[int]) -> kdtool.Batch:
    import torch

    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(ids.device)
    document = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])[None]
    return kdtool.Batch(
        input_ids=ids,
        positions=positions,
        labels=torch.zeros_like(ids),
        document=document.to(ids.device, torch.int32),
        row_keys=("check",),
    )


_DONT_NEED = 4
"""Linux's MADV_DONTNEED; pages of a private mapping are read from the file again when they are next used."""


def widen(model: nn.Module) -> None:
    """Convert weights and buffers of half precision to float32, one at a time, without keeping what they were."""
    import torch

    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.dtype in (torch.bfloat16, torch.float16):
            before = tensor.data
            tensor.data = before.float()
            release_mapping(before)


def release_mapping(weight: Tensor) -> None:
    """Give the pages of a file that `weight` maps back to the system; what was written into them is lost.

    Does nothing for tensors in other memory, and on systems other than Linux.
    """
    if sys.platform != "linux" or weight.device.type != "cpu":
        return
    begin = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and _is_mapped_privately(begin, end):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONT_NEED)


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps blocks of up to 32 MB. Does nothing with other C libraries."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _is_mapped_privately(begin: int, end: int) -> bool:
    """Return whether one private mapping of a file holds all addresses from `begin` to `end`."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
        for line in maps:
            addresses, mode, _, _, inode = line.split(maxsplit=5)[:5]
            first, last = (int(address, 16) for address in addresses.split("-"))
            if first <= begin < last:
                return end <= last and mode.endswith("p") and inode != "0"
    return False


def layers_among(model: nn.Module, count: int) -> nn.ModuleList | None:
    """Return the first list of `count` modules inside a model, which are its layers; None if there is none."""
    from torch import nn

    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return child
    return None


def pair_layers(
    setting: str, layers: Literal["auto"] | Sequence[int], student: kdtool.ModelFacts, teacher: kdtool.ModelFacts
) -> tuple[tuple[int, int], ...]:
    """Pair student layers, from 0, with the teacher's that each was copied from, else with round(l · L_teacher / L_student).

    "auto" takes every second layer and leaves the last to losses that see logits. `setting` is how errors name `layers`.

    Raises:
        UsageError: a layer that the student does not have, one twice, or none at all.
    """
    chosen = _every_second(student.layers) if layers == "auto" else tuple(layers)
    if not chosen or max(chosen) >= student.layers or len(set(chosen)) < len(chosen):
        raise kdtool.UsageError(
            f"{setting} is {list(chosen)}, but must name one or more different layers of the student, which has "
            f"layers 0 to {student.layers - 1}"
        )
    return tuple((layer, _teacher_layer(layer, student, teacher)) for layer in chosen)


def _every_second(layers: int) -> tuple[int, ...]:
    """Take layers 1, 3, 5 …; the last is replaced by the one before, since logit losses already cover it."""
    return tuple(sorted({min(layer, layers - 2) for layer in range(1, layers, 2)})) or (0,)


def _teacher_layer(layer: int, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> int:
    copied = student.copied_layers
    # Facts do not name the model that layers came from: a teacher of the same tokens that is not narrower counts as it.
    same = student.tokenizer_fingerprint == teacher.tokenizer_fingerprint and student.hidden <= teacher.hidden
    if same and len(copied) == student.layers and max(copied) < teacher.layers:
        return copied[layer]
    return min(int(layer * teacher.layers / student.layers + 0.5), teacher.layers - 1)


class PairedLayers(kdtool.SequenceLoss):
    """A loss that is a mean over pairs of layers; subclasses define `kdtool_layers` and `compare`. No temperature."""

    def compare(self, view: kdtool.StepView, teacher: kdtool.Signal, student_layer: int, teacher_layer: int) -> Tensor:
        """Return the value of one pair of layers for each of the N labelled positions."""
        raise NotImplementedError

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerToken:
        """Return the mean over the pairs for each of the N labelled positions."""
        if view.teacher is None or not view.layers:
            raise kdtool.PluginError(
                f"{type(self).__name__} compares paired layers with a teacher's: the trainer must give each step the term's "
                "`layers`, its `module` if it has one, and a teacher's signal"
            )
        values = [self.compare(view, view.teacher, *pair) for pair in view.layers]
        return kdtool.PerToken(sum(values[1:], values[0]) / len(values))


def changing(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a phase changes, by name: parameters that learn, and buffers, but not frozen weights."""
    tensors = {name: parameter.data for name, parameter in module.named_parameters() if parameter.requires_grad}
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                tensors[f"{prefix}.{name}".removeprefix(".")] = buffer
    return tensors
