"""Log-probabilities of tokens that the student chose, from a teacher's final states and head."""

from __future__ import annotations

import kdtool

from kdtool_torch._exact import exact_head, exact_logits

__all__ = ["chosen_tokens"]

_ROWS = 512
"""Positions whose logits exist at once."""


def chosen_tokens(lazy: kdtool.LazyLogits, want: kdtool.SignalRequest) -> kdtool.ChosenTokens:
    """Return the signal "chosen": log softmax(logits / T) at `want.chosen`, projected in float32, without gradient.

    Args:
        lazy: final states [N, H] and their head.
        want: `chosen` [N, K] on the device of the states, -1 pads; `temperature` is T.

    Returns:
        The same ids, with log-probabilities [N, K], 0 at padding.

    Raises:
        PluginError: the request names no tokens, or not a row of them for each of the N positions.
    """
    import torch

    ids, states = want.chosen, lazy.hidden
    if ids is None or len(ids) != len(states):
        rows = "none" if ids is None else f"{len(ids)} rows"
        raise kdtool.PluginError(
            f'the signal "chosen" needs one row of token ids for each of {len(states)} labels, but the request has {rows}; '
            "pass SignalRequest(chosen=ids) with ids [N, K]"
        )
    head, result = exact_head(lazy.head), torch.zeros(ids.shape, dtype=torch.float32, device=states.device)
    with torch.no_grad():
        for start in range(0, len(states), _ROWS):
            part = slice(start, start + _ROWS)
            logs = (exact_logits(head, states[part]) / want.temperature).log_softmax(-1)
            result[part] = logs.gather(-1, ids[part].clamp(min=0).long()).masked_fill(ids[part] < 0, 0.0)
    return kdtool.ChosenTokens(ids, result, want.temperature)
