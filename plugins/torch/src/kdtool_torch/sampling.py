"""The next tokens of texts, each drawn by the text's own generator.

Sampling adds Gumbel noise from a text's generator to the logits and takes the greatest (Gumbel-max trick: an exact
sample of the softmax), so that a text does not depend on others in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import kdtool

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LEAST = 2.0**-32
"""Least exponential draw, the resolution of the generators: MKL returns 1e-38 where its uniform number rounds to 1, and
noise of 87 would make any token the greatest."""


class _Settings(NamedTuple):
    """The distribution that a sampler draws from."""

    temperature: float
    top_k: int
    top_p: float


class Sampler:
    """Draws the tokens of one text from softmax(logits / temperature), without those that `top_k` and `top_p` exclude.

    `top_k` is the number of likeliest tokens to keep (0: all); `top_p` keeps the fewest likeliest of these that together
    have this share of their probability, one at least. Tokens as likely as the last one are kept, too. At temperature 0 it
    takes the likeliest.
    """

    def __init__(self, temperature: float, seed: int, device: torch.device, top_k: int = 0, top_p: float = 1.0) -> None:
        import torch

        self.settings = _Settings(temperature, top_k, top_p)
        self.draws = temperature > 0
        self.generator = torch.Generator(device).manual_seed(seed)

    @classmethod
    def of(cls, request: kdtool.Request, device: torch.device) -> Sampler:
        """Return the sampler of a request."""
        return cls(request.temperature, request.seed, device, request.top_k, request.top_p)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the distribution [V] that tokens are drawn from; `logits` [V] are float32, the temperature is above 0."""
        return _scale_and_filter(logits, self.settings).softmax(-1)


def choose(logits: Tensor, samplers: Sequence[Sampler], vocabulary: int) -> Tensor:
    """Return scores [B, V] in float32, each row by its own sampler; none beyond the vocabulary is the greatest.

    Rows whose samplers have the same settings are computed together. Logits that are float32 already are overwritten.
    """
    import torch

    scores = logits.float()
    scores[:, vocabulary:] = -torch.inf
    alike: dict[_Settings, list[int]] = {}
    for row, sampler in enumerate(samplers):
        if sampler.draws:
            alike.setdefault(sampler.settings, []).append(row)
    for settings, rows in alike.items():
        noise = _gumbel_noise([samplers[row] for row in rows], scores)
        if len(rows) == len(samplers):
            return _scale_and_filter(scores, settings) + noise
        scores[rows] = _scale_and_filter(scores[rows], settings) + noise
    return scores


def _gumbel_noise(samplers: Sequence[Sampler], like: Tensor) -> Tensor:
    """Return each sampler's next noise, [B, V], on the device and in the precision of `like`."""
    noise = like.new_empty(len(samplers), like.shape[1])
    for row, sampler in zip(noise, samplers, strict=True):
        row.exponential_(generator=sampler.generator)
    return noise.clamp_(min=_LEAST).log_().neg_()


def _scale_and_filter(logits: Tensor, settings: _Settings) -> Tensor:
    """Return logits [..., V] at the temperature, −∞ for the tokens that are never drawn."""
    import torch

    scaled = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        least = scaled.topk(settings.top_k).values[..., -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if settings.top_p < 1:
        probabilities = scaled.softmax(-1)
        ordered = _descending(probabilities)
        kept = (ordered.cumsum(-1) - ordered < settings.top_p).sum(-1, keepdim=True).clamp(min=1)
        scaled = scaled.masked_fill(probabilities < ordered.gather(-1, kept - 1), -torch.inf)
    return scaled


def _descending(values: Tensor) -> Tensor:
    """Return values [..., V] in descending order. On CPUs NumPy sorts them ten times as fast as torch."""
    import numpy as np
    import torch

    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy())).flip(-1)
    return values.sort(descending=True).values
