"""Compare a wrapped model with itself, so that wrapping and rewriting fail loudly.

A trainer calls `self_check` once before its first step; transforms that rewrite a trained model do so under
`require_same_logits`. Each takes well under a second for small models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch._eval_mode import eval_mode

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["require_same_logits", "self_check"]

_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 2e-2}
_REWRITTEN_TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Tolerance of rewritten logits, by the coarsest dtype of the result: a rounding or two of its weights."""


def self_check(language_model: kdtool.LanguageModel, tolerance: float | None = None) -> float:
    """Compare head(backbone(x)) of two packed documents with the model's own logits of each document by itself.

    Finds a head that is scaled, capped or biased differently from `LanguageModel.head`, and documents that see each other.
    Returns the root mean square of the deviation relative to the logits' standard deviation. A model with weights of
    several dtypes needs autocast around the call, as in training.

    Raises:
        PluginError: the deviation is above `tolerance`: by default 0.001 in float32. In half precision, autocast's included,
            more is allowed, and a model that deviates more still is compared in float32.
    """
    model = language_model.model
    limit = _tolerance(language_model.head.weight) if tolerance is None else tolerance
    deviations = _deviations(language_model)
    if tolerance is None and limit > _TOLERANCE["float32"] and not max(deviations) <= limit:
        with _in_float32(model):  # a model may amplify the rounding of few bits; an error is one in float32, too
            limit, deviations = _TOLERANCE["float32"], _deviations(language_model)
    if not max(deviations) <= limit:
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
    ids = torch.randint(vocabulary, (1, 24), generator=generator).to(model.get_input_embeddings().weight.device)
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
    import torch

    device = weight.device.type
    products = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return max(_TOLERANCE[str(dtype).removeprefix("torch.")] for dtype in (weight.dtype, products))


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
