"""Every class of model that the exporter `gguf` writes: llama.cpp computes the same from the file."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import kdtool
import pytest
from gguf import GGUFReader
from kdtool_export.gguf import GGUF
from kdtool_export.gguf.files import write_gguf
from kdtool_export.gguf.runtime import GGUFRuntime
from kdtool_testing import make_run
from kdtool_testing.tiny_models import save_tiny, tiny_model
from kdtool_transformers import TransformersModel, TransformersRuntime, TransformersTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEXT = "".join(Random(1).choices(string.printable[:94], k=220))
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with an own head": ("llama", {"tie_word_embeddings": False}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with narrow heads": ("llama", {"head_dim": 4}),
    "llama with odd widths": ("llama", {"head_dim": 18, "intermediate_size": 33}),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "llama, yarn": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, yarn": (
        "qwen2",
        {"rope_parameters": {**YARN, "attention_factor": 1.3}},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "starcoder2": ("starcoder2", {"sliding_window": None}),
    "gpt2": ("gpt2", {"n_inner": 48}),
    "gpt2 with odd heads": ("gpt2", {"hidden_size": 44}),
}


def lively(family: str, **settings: Any) -> TransformersModel:
    """Return a model whose norms and positions matter, with a tokenizer of all its 258 tokens."""
    model = tiny_model(family, layers=2, vocabulary=258, **settings)
    for name, weight in model.model.named_parameters():
        if weight.ndim == 1 and ("norm" in name or "ln_" in name):
            weight.data.mul_(0.5).add_(1)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({token: number for number, token in enumerate([*alphabet, "er"])}, [("e", "r")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    return TransformersModel(
        model.model, TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end))
    )


@pytest.mark.parametrize(("family", "settings"), MODELS.values(), ids=MODELS)
def test_llama_cpp_computes_what_the_model_does(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = lively(family, **settings)
    file = write_gguf(model, tmp_path / "a.gguf", name="tiny")
    (expected,) = TransformersRuntime(model).score([TEXT])
    with GGUFRuntime(file, context=256, threads=1) as opened:
        (found,) = opened.score([TEXT])
    assert found.tokens == expected.tokens
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=5e-4)
    field = GGUFReader(file).get_field("general.name")
    assert field is not None
    assert field.contents() == "tiny"


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "starcoder2", "gpt2"])
def test_every_class_is_accepted_before_training(family: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "student", family, layers=1, vocabulary=260)
    GGUF(GGUF.Config()).kdtool_check(replace(make_run(tmp_path), untrained=tmp_path / "student"), "student")


def test_context_ends_with_the_window_that_llama_cpp_does_not_slide(tmp_path: Path) -> None:
    told = GGUFReader(
        write_gguf(tiny_model("mistral", layers=1, vocabulary=260, sliding_window=96), tmp_path / "a.gguf")
    )
    found = {name: told.get_field(f"llama.{name}") for name in ("context_length", "attention.sliding_window")}
    assert [field.contents() for field in found.values() if field is not None] == [96, 96]


@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("gemma2", {}, "the class gemma2 cannot be written as GGUF here, only llama, mistral, qwen2"),
        ("llama", {"hidden_act": "gelu"}, "a llama with hidden_act gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type dynamic"),
        ("qwen2", {"rope_parameters": LLAMA3}, "a qwen2 with rope_type llama3"),
        ("llama", {"rope_parameters": {**YARN, "truncate": False}}, "truncate False"),
        ("qwen2", {"rope_parameters": {**YARN, "beta_fast": 16}}, "beta_fast 16"),
        ("starcoder2", {"use_bias": False}, "use_bias False"),
        ("starcoder2", {"head_dim": 4}, "heads that are 16 wide with a hidden size of 32"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
    ],
)
def test_what_llama_cpp_lacks_is_refused(family: str, settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=said):
        write_gguf(tiny_model(family, layers=1, vocabulary=260, **settings), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()
