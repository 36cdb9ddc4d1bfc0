"""The start-up check: a wrapped model against itself, so that nothing trains silently wrong.

A trainer calls `self_check` once before its first step. It takes well under a second for small models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["project_logits", "self_check"]

_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 2e-2}


def project_logits(hidden: Tensor, head: kdtool.Head) -> Tensor:
    """Return the head's logits [N, V] over the true vocabulary, in the weight's dtype, for final states [N, H].

    For tests and small pieces: training and scoring project chunks.
    """
    import torch
    import torch.nn.functional as F

    logits = F.linear(hidden.to(head.weight.dtype), head.weight, head.bias)[:, : head.vocabulary]
    if head.scale != 1.0:
        logits = logits * head.scale
    if head.soft_cap is not None:
        logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    return logits


def self_check(language_model: kdtool.LanguageModel, tolerance: float | None = None) -> float:
    """Compare head(backbone(x)) of two packed documents with the model's own logits of each document alone.

    Finds a head that is scaled, capped or biased otherwise than `LanguageModel.head` says, and documents that see each
    other. Returns the root mean square of the deviation relative to the logits' standard deviation.

    Raises:
        PluginError: the deviation is above `tolerance` (by default 0.001 in float32, 0.1 in bfloat16).
    """
    import torch

    model = language_model.model
    device, dtype = model.get_input_embeddings().weight.device, str(language_model.head.weight.dtype)
    limit = _TOLERANCE[dtype.removeprefix("torch.")] if tolerance is None else tolerance
    vocabulary = language_model.head.vocabulary
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, 24), generator=generator).to(device)
    lengths = [9, 15]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = language_model.backbone(_packed(ids, lengths), kdtool.Want())
            packed = project_logits(outputs.last, language_model.head).float()
            parts = torch.split(ids, lengths, dim=1)
            alone = torch.cat([model(input_ids=part, use_cache=False).logits[0] for part in parts])
    finally:
        model.train(training)
    alone = alone[:, :vocabulary].float()
    scale = alone.std()
    deviations = [
        float((a - b).square().mean().sqrt() / scale)
        for a, b in zip(torch.split(packed, lengths), torch.split(alone, lengths), strict=True)
    ]
    if not max(deviations) <= limit:
        what = "its documents see each other" if deviations[0] <= limit else "its head is not what kdtool takes it for"
        raise kdtool.PluginError(
            f"{type(model).__name__} fails the start-up check, {what}: logits deviate by {deviations[0]:.2g} in the first "
            f"document and {deviations[1]:.2g} in the second (in standard deviations; allowed {limit:g})"
        )
    return max(deviations)


def _packed(ids: Tensor, lengths: list[int]) -> kdtool.Batch:
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
