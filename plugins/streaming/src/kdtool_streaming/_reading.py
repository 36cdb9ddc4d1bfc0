"""A model that reads a growing text and can discard its end: keys and values are cropped, not recomputed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import kdtool
import torch
from kdtool_transformers import TransformersRuntime, cache_name, causal_of
from torch import Tensor
from transformers import DynamicCache

__all__ = ["Reading", "new_cache"]

_CHUNK = 256
"""Tokens of a prompt that are read at once."""


def new_cache(model: kdtool.LanguageModel) -> DynamicCache:
    """Return an empty cache whose sliding windows can be cropped, too."""
    cache = DynamicCache(config=causal_of(model.model).config)
    cache.activate_past_recording()
    return cache


class Reading:
    """One model and one text. `read` counts the tokens whose keys and values are kept; `vocabulary` is the true one."""

    def __init__(self, runtime: TransformersRuntime, vocabulary: int) -> None:
        self._runtime, self._vocabulary = runtime, vocabulary
        self.read = 0
        with runtime.passes() as model:
            self._causal = causal_of(model.model)
            self._device, self._cache = model.head.weight.device, new_cache(model)
        self._cache_name = cache_name(self._causal)
        self._keeps = "logits_to_keep" in inspect.signature(self._causal.forward).parameters

    def read_chunks(self, ids: Sequence[int]) -> Iterator[None]:
        """Read a prompt, one chunk per step."""
        while self.read < len(ids):
            self.advance(ids[: self.read + _CHUNK], 1)
            self.crop(self.read)
            yield

    def advance(self, ids: Sequence[int], last: int) -> Tensor:
        """Read the unread tokens of `ids`, and return the float32 logits [last, vocabulary] of the last ones."""
        new = torch.tensor([ids[self.read :]], device=self._device)
        options = {"logits_to_keep": last} if self._keeps else {}
        with self._runtime.passes():
            output = self._causal(input_ids=new, use_cache=True, **{self._cache_name: self._cache}, **options)
        self.read = len(ids)
        logits: Tensor = output.logits[0, -last:, : self._vocabulary].float()
        return logits

    def crop(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        self._cache.crop(min(0, length - self.read))
        self.read = min(self.read, length)
