"""Interface of causal language models of transformers, as generation and measurement use them."""

from __future__ import annotations

import inspect
from typing import Any

import kdtool

from kdtool_transformers._tokenizer import TransformersTokenizer

__all__ = ["CausalModel", "cache_name", "causal_of", "context_of"]


class CausalModel(kdtool.LanguageModel):
    """A `PreTrainedModel` with a language-model head, and its tokenizer. `TransformersModel` is its only implementation."""

    model: Any
    tokenizer: TransformersTokenizer


def causal_of(model: Any) -> Any:
    """Return the causal LM itself, also if an adapter wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def cache_name(model: Any) -> str:
    """Return the name of the cache among the arguments of a causal LM: `past_key_values` before transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def context_of(model: Any) -> int:
    """Return the greatest number of tokens that a model reads, without counting its weights; 0 if it is unknown."""
    return int(getattr(causal_of(model).config.get_text_config(), "max_position_embeddings", 0))
