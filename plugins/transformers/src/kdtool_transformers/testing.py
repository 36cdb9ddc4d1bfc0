"""Tiny models with random weights, for the tests of plugins that use transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from kdtool_transformers._alone import alone
from kdtool_transformers._bytes import byte_tokenizer
from kdtool_transformers._model import TransformersModel

__all__ = ["byte_tokenizer", "save_tiny", "tiny_config", "tiny_model"]


def tiny_config(family: str = "llama", layers: int = 4, vocabulary: int = 257, **settings: Any) -> Any:
    """Return a small configuration of a family: llama, qwen2, starcoder2, gpt2, gemma2, granite or cohere."""
    config_class = transformers.AutoConfig.for_model(family).__class__
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family != "gpt2":
        sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return config_class(**{**sizes, **settings})


def tiny_model(family: str = "llama", layers: int = 4, seed: int = 0, **settings: Any) -> TransformersModel:
    """Return a small model with weights of standard deviation 0.25, so that its logits differ from each other."""
    with alone(seed):
        model = transformers.AutoModelForCausalLM.from_config(tiny_config(family, layers, **settings))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
    return TransformersModel(model.eval(), byte_tokenizer(family))


def save_tiny(
    folder: Path, family: str = "llama", layers: int = 4, seed: int = 0, **settings: Any
) -> TransformersModel:
    """Write `tiny_model` into a folder and return it."""
    model = tiny_model(family, layers, seed, **settings)
    model.save(folder)
    return model
