"""Outlines: models without memory for their weights, for the check of recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig

from kdtool_transformers._model import TransformersModel
from kdtool_transformers._open import without_weights
from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["AbsentTokenizer", "outline_of"]


class AbsentTokenizer:
    """Placeholder for a tokenizer that is not on this machine, with the vocabulary size of the configuration."""

    fingerprint = ""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary


def outline_of(
    config: Any, tokenizer: TransformersTokenizer | None = None, copied_layers: Sequence[int] = ()
) -> TransformersModel:
    """Return a model without memory for its weights; without a tokenizer it is only good for estimates.

    `config` is a configuration, or the content of a published config.json; weights have its dtype, or float32.
    """
    if isinstance(config, Mapping):
        config = AutoConfig.for_model(**config)
    stand_in: Any = AbsentTokenizer(config.get_text_config().vocab_size)
    return TransformersModel(without_weights(config), tokenizer or stand_in, copied_layers)
