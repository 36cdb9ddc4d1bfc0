"""The likeliest tokens of a model at every place of a text."""

from __future__ import annotations

from collections.abc import Sequence

import kdtool
import torch
from kdtool_torch import eval_mode, exact_logits, windows

__all__ = ["WINDOW", "likeliest"]

WINDOW = 1024
"""Tokens that a model sees at once, as CodeXGLUE's `block_size`; fewer if its context is shorter."""
_HEAD_ROWS = 512


def likeliest(model: kdtool.LanguageModel, head: kdtool.Head, ids: Sequence[int]) -> list[int]:
    """Return the likeliest token in place of each of `ids`, given those before it; `head` is the model's `exact_head`.

    The first is predicted from the tokenizer's `scoring_context`. Longer texts are cut into windows that advance by half,
    and each token is predicted in the first window that contains it. No gradient; in the weights' dtype, logits in float32.
    """
    size = min(WINDOW, model.facts.context or WINDOW)
    context = model.tokenizer.scoring_context
    tokens = [*context, *ids]
    predicted: list[int] = []
    with eval_mode(model.model):
        for start, done, stop in windows(len(tokens) - 1, size, len(context) - 1):
            predicted += _in_window(model, head, tokens[start : stop + 1], done - start)
    return predicted


def _in_window(model: kdtool.LanguageModel, head: kdtool.Head, tokens: Sequence[int], done: int) -> list[int]:
    """Return the likeliest tokens in place of `tokens[1 + done:]`."""
    ids = torch.tensor([tokens], device=model.head.weight.device)
    labels = ids[:, 1:].clone()
    labels[:, :done] = -100
    positions = torch.arange(labels.shape[1], device=ids.device)[None]
    document = torch.zeros_like(positions, dtype=torch.int32)
    batch = kdtool.Batch(ids[:, :-1], positions, labels, document, ("",))
    states = model.backbone(batch, kdtool.SignalRequest()).last
    return [int(token) for rows in torch.split(states, _HEAD_ROWS) for token in exact_logits(head, rows).argmax(-1)]
