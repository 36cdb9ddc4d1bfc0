"""Check that llama.cpp reproduces the student: from an exported file, and before training from a small stand-in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_transformers import (
    TransformersModel,
    TransformersTokenizer,
    without_weights,
    write_gguf,
)

from kdtool_exporter_gguf._decoder import Decoder
from kdtool_exporter_gguf._held_text import WINDOW
from kdtool_exporter_gguf._parity import Parity, compare, require_parity

if TYPE_CHECKING:
    from kdtool_exporter_gguf._config import GGUFConfig
    from kdtool_exporter_gguf._prepared import Prepared

__all__ = ["name_of_splitting", "require_readable", "require_same"]

_SAMPLES = (
    'def load(path, mode="rb"):\n    """Größe von 日本語."""\n\treturn [x ** 2 for x in range(1234567)]\n\n\n',
    "  \t if a!=b:  # it's we'll\r\n    print(3.14159, 0xFF)   \n",
)
"""Text that tokenizers split differently: indentation, digits, other scripts, line ends."""
_RARE = "ﬁle x² = ½ ①\u00a0e\u0301 É 👩‍💻\u3000ＡＢ"
"""Text that tokenizers normalise before splitting, and numbers that are not digits."""
_NARROW = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}


def name_of_splitting(tokenizer: TransformersTokenizer) -> str:
    """Return llama.cpp's name for the tokenizer's way of splitting text into words.

    Raises:
        UsageError: the tokenizer splits in another way.
    """
    definition = json.loads(tokenizer.inner.backend_tokenizer.to_str())
    splitting = definition["pre_tokenizer"] or {}
    *before, last = splitting.get("pretokenizers", [splitting])
    by_bytes = last.get("type") == "ByteLevel" and not last.get("add_prefix_space")
    if by_bytes and not definition["model"]["merges"]:
        return "gpt-2"  # tokens are bytes, whatever the words
    digits = [step for step in before if step.get("type") == "Digits" and step.get("individual_digits")]
    if by_bytes and last.get("use_regex", True) and before == digits:
        return "smollm" if digits else "gpt-2"
    raise kdtool.UsageError(
        "gguf: the student's tokenizer splits text in a way that the exporter does not know; expected a tokenizer like "
        "that of GPT-2, SmolLM2 or StarCoder2; export safetensors, and convert them with llama.cpp's convert_hf_to_gguf.py"
    )


def require_readable(config: Any, tokenizer: TransformersTokenizer) -> None:
    """Have llama.cpp open a file with the student's tokenizer and heads, and one narrow layer of zeros.

    Raises:
        UsageError: llama.cpp does not open it, or splits text differently.
    """
    narrow = copy.deepcopy(config)
    narrow.update(_NARROW)
    model = without_weights(narrow).to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.zero_()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pre = name_of_splitting(tokenizer)
        file = write_gguf(TransformersModel(model, tokenizer), Path(folder, "narrow.gguf"), dtype="f16", pre=pre)
        with Decoder(file, context=256, threads=1) as decoder:
            text = _find_split_difference(tokenizer, decoder)
    if text is not None:
        raise kdtool.UsageError(
            f"gguf: llama.cpp would split {text!r} differently from the student's tokenizer; export safetensors, or use a "
            "student with another tokenizer"
        )


def require_same(student: TransformersModel, file: Path, prepared: Prepared, config: GGUFConfig) -> Parity:
    """Compare tokens of a few texts, and logits on held-out text, with the student's; return how far the logits are.

    Raises:
        PluginError: tokens differ, or logits by more than the type explains.
    """
    with Decoder(file, context=WINDOW, threads=config.threads) as decoder:
        text = _find_split_difference(student.tokenizer, decoder)
        if text is not None:
            raise kdtool.PluginError(
                f"gguf: llama.cpp splits {text!r} differently from the student's tokenizer; export safetensors"
            )
        found = compare(student, prepared.windows, prepared.states, decoder)
    require_parity(found, config.type, file)
    return found


def _find_split_difference(tokenizer: TransformersTokenizer, decoder: Decoder) -> str | None:
    """Return a sample that llama.cpp splits differently from the tokenizer; None if there is none."""
    for text in _texts(tokenizer):
        if decoder.tokenize(text) != tokenizer.encode(text):
            return text
    return None


def _texts(tokenizer: TransformersTokenizer) -> Iterator[str]:
    """Yield samples of text, and each added token within text and within words."""
    yield from (*_SAMPLES, _RARE)
    for token in tokenizer.inner.added_tokens_decoder.values():
        yield f"x{token.content}y {token.content} z\n"
