"""The next token of a text: the likeliest one, or one drawn by the text's generator.

Sampling adds Gumbel noise from that generator to the logits and takes the greatest (Gumbel-max trick: an exact sample of
the softmax), so that a text does not depend on others in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import kdtool
import torch
from torch import Tensor

__all__ = ["Sampler", "choose"]


class Sampler:
    """Draws the tokens of one text from softmax(logits / temperature), without those that `top_k` and `top_p` exclude.

    `top_k` is the number of likeliest tokens to keep (0: all); `top_p` keeps the fewest likeliest of these that together
    have this share of their probability, one at least. At temperature 0 it takes the likeliest.
    """

    def __init__(self, temperature: float, seed: int, device: torch.device, top_k: int = 0, top_p: float = 1.0) -> None:
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self.draws = temperature > 0
        self._generator = torch.Generator(device).manual_seed(seed)

    @classmethod
    def of(cls, request: kdtool.Request, device: torch.device) -> Sampler:
        """Return the sampler of a request."""
        return cls(request.temperature, request.seed, device, request.top_k, request.top_p)

    def __call__(self, logits: Tensor) -> Tensor:
        """Return scores [V], the greatest of which is the next token's; `logits` [V] are float32."""
        if not self.draws:
            return logits
        noise = torch.empty_like(logits).exponential_(generator=self._generator)
        return self._keep_likeliest(logits / self._temperature) - noise.log()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the distribution [V] that tokens are drawn from; `logits` [V] are float32, the temperature is above 0."""
        return self._keep_likeliest(logits / self._temperature).softmax(-1)

    def _keep_likeliest(self, logits: Tensor) -> Tensor:
        if 0 < self._top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self._top_k).values[-1], -torch.inf)
        if self._top_p < 1:
            likeliest, order = logits.softmax(-1).sort(descending=True)
            before = likeliest.cumsum(-1) - likeliest
            dropped = before >= self._top_p
            dropped[0] = False
            logits = logits.index_fill(0, order[dropped], -torch.inf)
        return logits


def choose(logits: Tensor, samplers: Sequence[Sampler], vocabulary: int) -> Tensor:
    """Return scores [B, V] in float32, each row by its own sampler; none beyond the vocabulary is the greatest.

    Logits that are float32 already are overwritten.
    """
    scores = logits.float()
    scores[:, vocabulary:] = -torch.inf
    for row, sampler in enumerate(samplers):
        if sampler.draws:
            scores[row] = sampler(scores[row])
    return scores
