"""The file that makes the folder one of ONNX Runtime GenAI: https://onnxruntime.ai/docs/genai/reference/config.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtool_transformers import TransformersModel

    from kdtool_exporter_web._graph import Shape

__all__ = ["genai_config"]


def genai_config(student: TransformersModel, shape: Shape, dtype: str) -> Mapping[str, Any]:
    """Return the content of `genai_config.json`: ends of an answer, names of inputs and outputs, greedy search."""
    ends = sorted(student.tokenizer.end_ids)
    start = student.tokenizer.document_start
    decoder = {
        "filename": f"onnx/model_{dtype}.onnx",
        "session_options": {"provider_options": []},
        "head_size": shape.head_size,
        "hidden_size": student.facts.hidden,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",  # a decoder with a cache; the graph itself says the rest
        "bos_token_id": (start or ends)[0],
        "eos_token_id": ends,
        "pad_token_id": ends[0],
        "context_length": shape.context,
        "vocab_size": shape.vocabulary,
        "decoder": decoder,
    }
    search = {"max_length": shape.context, "do_sample": False, "past_present_share_buffer": False}
    return {"model": model, "search": search}
