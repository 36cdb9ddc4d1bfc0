"""What a model holds for likeliest at every place of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import kdtool
import torch

__all__ = ["WINDOW", "likeliest"]

WINDOW = 1024
"""Tokens that a model sees at once, as CodeXGLUE's `block_size`; fewer where its context is shorter."""
_HEAD_ROWS = 512


def likeliest(model: kdtool.LanguageModel, ids: Sequence[int]) -> list[int]:
    """Return the likeliest token in place of each of `ids`, given those before it, the first behind the end-of-text token.

    Longer texts are cut into windows that advance by half, and each token is predicted in the first window that holds it.
    No gradient; in the weights' own dtype.
    """
    size = min(WINDOW, model.facts.context or WINDOW)
    tokens = [model.tokenizer.end_of_text, *ids]
    found: list[int] = []
    start = 0
    with _evaluated(model.model):
        while len(found) < len(ids):
            stop = min(start + size, len(ids))
            found += _in_window(model, tokens[start : stop + 1], len(found) - start)
            start += max(1, size // 2)
    return found


@contextmanager
def _evaluated(module: torch.nn.Module) -> Iterator[None]:
    """Keep no gradient and drop nothing out, and leave each module as it was: the model may be one that is being trained."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for each, mode in modes.items():
            each.training = mode


def _in_window(model: kdtool.LanguageModel, tokens: Sequence[int], done: int) -> list[int]:
    """Return the likeliest tokens in place of `tokens[1 + done:]`."""
    ids = torch.tensor([tokens], device=model.head.weight.device)
    labels = ids[:, 1:].clone()
    labels[:, :done] = -100
    positions = torch.arange(labels.shape[1], device=ids.device)[None]
    document = torch.zeros_like(positions, dtype=torch.int32)
    batch = kdtool.Batch(ids[:, :-1], positions, labels, document, ("",))
    states = model.backbone(batch, kdtool.Want()).last
    return [int(one) for rows in torch.split(states, _HEAD_ROWS) for one in model.head.logits(rows).argmax(-1)]
