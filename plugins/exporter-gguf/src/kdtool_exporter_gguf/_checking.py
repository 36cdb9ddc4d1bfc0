"""Whether llama.cpp reads a written file as the student that it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from kdtool_transformers import TransformersModel, TransformersRuntime, TransformersTokenizer

from kdtool_exporter_gguf._runtime import GGUFRuntime

if TYPE_CHECKING:
    from kdtool_exporter_gguf import GGUF

__all__ = ["name_of_splitting", "require_same"]

_SAMPLES = (
    'def load(path, mode="rb"):\n    """Größe von 日本語."""\n\treturn [x ** 2 for x in range(1234567)]\n\n\n',
    "  \t if a!=b:  # it's we'll\r\n    print(3.14159, 0xFF)   \n",
)
"""What tokenizers split differently: indentation, digits, other scripts, ends of lines."""
_TOLERANCE = {"f32": 0.01, "f16": 0.01, "bf16": 0.03, "q8_0": 0.05}
"""How far a log-likelihood may be from the student's. llama.cpp keeps keys and values in half precision, and over q8_0
rounds activations to 8 bits, too; SmolLM2-135M deviates by 1.1 % there and by 0.02 % in f16."""


def name_of_splitting(tokenizer: TransformersTokenizer) -> str:
    """Return what llama.cpp calls the way in which a tokenizer splits text into words.

    Raises:
        UsageError: none of those that this knows.
    """
    told = json.loads(tokenizer.inner.backend_tokenizer.to_str())
    if not told["model"].get("merges"):
        return "gpt-2"  # tokens are bytes, however they are divided into words
    splitting = told["pre_tokenizer"] or {}
    *before, last = splitting.get("pretokenizers", [splitting])
    by_words = last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    digits = [step for step in before if step.get("type") == "Digits" and step.get("individual_digits")]
    if by_words and before == digits:
        return "smollm" if digits else "gpt-2"
    raise kdtool.UsageError(
        "gguf: the student's tokenizer splits text as neither GPT-2 nor SmolLM2 and StarCoder2 do, and what llama.cpp calls "
        "that is not known here: export safetensors, and convert those by llama.cpp's convert_hf_to_gguf.py"
    )


def require_same(student: TransformersModel, file: Path, config: GGUF.Config) -> None:
    """Compare tokens and log-likelihoods of a few texts with the student's.

    Raises:
        PluginError: something differs by more than the numbers' precision.
    """
    expected = list(TransformersRuntime(student).score(_SAMPLES))
    with GGUFRuntime(file, context=config.context, threads=config.threads) as runtime:
        for text, score, found in zip(_SAMPLES, expected, runtime.score(_SAMPLES), strict=True):
            if runtime.ids(text) != student.tokenizer.encode(text):
                raise kdtool.PluginError(
                    f"gguf: llama.cpp splits {text[:20]!r}… otherwise than the student's tokenizer"
                )
            deviation = abs(found.log_likelihood / score.log_likelihood - 1)
            if not deviation <= _TOLERANCE[config.numbers]:
                raise kdtool.PluginError(
                    f"gguf: the file differs from the student: a log-likelihood deviates by {deviation:.1%} "
                    f"(allowed {_TOLERANCE[config.numbers]:.0%}) in {config.numbers}; export with numbers: f32"
                )
