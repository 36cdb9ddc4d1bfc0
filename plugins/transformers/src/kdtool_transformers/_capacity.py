"""Number of texts that are generated at once: as many as the device's memory holds.

On a CPU a batch is bounded by tokens, since larger ones are no faster there. On a GPU, where one token of one text leaves
almost all of the device idle, it is bounded by free memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from kdtool_torch import free_gpu_bytes

from kdtool_transformers._causal import causal_of

__all__ = ["Capacity", "capacity_of", "gpu_capacity"]

_MOST_ON_GPU = 512
"""Texts at once on a GPU: beyond it a step takes longer in proportion."""
_LOGITS = 8
"""Float32 tensors of a text's logits that exist while its next token is drawn, sorting included."""


@dataclass(frozen=True)
class Capacity:
    """Limits of a batch: `most` texts, and `memory` that a text of n tokens uses n · `token` + `text` of.

    The unit is bytes on a GPU; on a CPU it is tokens, and the defaults apply.
    """

    most: int = 32
    memory: int = 16384
    token: int = 1
    text: int = 0

    def texts(self, tokens: int) -> int:
        """Return how many texts of at most this number of tokens, prompt and answer, fit; at least one."""
        return max(1, min(self.most, self.memory // (max(1, tokens) * self.token + self.text)))


def capacity_of(model: Any, device: torch.device) -> Capacity:
    """Return the limits for a model of transformers, by the memory that its device has free now."""
    free = free_gpu_bytes(device)
    if free is None:
        return Capacity()
    weight = model.get_output_embeddings().weight
    return gpu_capacity(causal_of(model).config.get_text_config(), weight.dtype.itemsize, len(weight), free)


def gpu_capacity(config: Any, itemsize: int, vocabulary: int, free: int) -> Capacity:
    """Return the limits for a configuration of transformers on a GPU with `free` bytes.

    Half of the memory is left to attention masks and fragments. The rest is rounded down to a power of two: batches, and
    with them the rounding of sums, should not depend on a few megabytes.
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    feed_forward = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    keys_and_values = 2 * heads * head_size * (config.num_hidden_layers + 1)  # one layer's are copied to grow
    activations = 4 * config.hidden_size + 3 * feed_forward  # of one layer, while prompts are read
    memory = 1 << max(0, (free // 2).bit_length() - 1)
    return Capacity(_MOST_ON_GPU, memory, itemsize * (keys_and_values + activations), 4 * _LOGITS * vocabulary)
