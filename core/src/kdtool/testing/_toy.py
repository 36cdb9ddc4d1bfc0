"""Small stand-ins for what a component meets in a run: a model in a folder, opened subjects, rows as tensors.

Nothing here imports torch before it is called: `write_toy_model` writes a folder that transformers opens with the standard
library alone, `toy_model` and `batch_of` need torch.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import log, prod
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any

from kdtool._contract.data import Batch, Row
from kdtool._contract.evaluation import Exporter, Subject
from kdtool._contract.language_model import LanguageModel, Request, Runtime, Score, TextAnswer
from kdtool._contract.run_info import RunInfo

if TYPE_CHECKING:
    from kdtool.testing._toy_model import ToyModel

__all__ = ["Opener", "ToyRuntime", "batch_of", "toy_model", "write_safetensors", "write_tokenizer", "write_toy_model"]

_WIDTH, _HEADS, _PAIRS, _INNER, _VOCABULARY, _CONTEXT = 32, 4, 2, 48, 257, 256


def write_toy_model(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Write a Llama of some 25,000 random weights and a tokenizer of bytes that `transformers` opens; return the folder.

    Needs neither torch nor transformers. Id i below 256 is the byte i, 256 ends a text. Context 256, width 32, float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"toy {seed}")
    inner = {"gate_proj": (_INNER, _WIDTH), "up_proj": (_INNER, _WIDTH), "down_proj": (_WIDTH, _INNER)}
    narrow = _WIDTH * _PAIRS // _HEADS
    heads = {"q_proj": _WIDTH, "k_proj": narrow, "v_proj": narrow, "o_proj": _WIDTH}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (_VOCABULARY, _WIDTH)}
    for layer in range(layers):
        before = f"model.layers.{layer}"
        shapes |= {f"{before}.self_attn.{name}.weight": (rows, _WIDTH) for name, rows in heads.items()}
        shapes |= {f"{before}.mlp.{name}.weight": shape for name, shape in inner.items()}
        shapes |= {f"{before}.{name}.weight": (_WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes["model.norm.weight"] = (_WIDTH,)
    weights = {name: [rng.gauss(0, 0.25) for _ in range(prod(shape))] for name, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", shapes, weights)
    (folder / "config.json").write_text(json.dumps(_config(layers)), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write the files of a tokenizer of bytes, as `transformers` reads them."""
    for name, content in _tokenizer_files().items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def write_safetensors(path: Path, shapes: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[float]]) -> None:
    """Write float32 tensors in the format of safetensors: a header's length, the header, the numbers."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = array("f", [number for name in shapes for number in values[name]])
    if pack("=H", 1) != pack("<H", 1):
        numbers.byteswap()
    path.write_bytes(pack("<Q", len(text)) + text + numbers.tobytes())


def toy_model(seed: int = 0) -> ToyModel:
    """Return a small causal language model on plain torch, with bytes as tokens and dropout between its blocks."""
    from kdtool.testing._toy_model import ToyModel

    return ToyModel(seed)


def batch_of(rows: Sequence[Row]) -> Batch:
    """Collate rows as the engine's trainers do: labels shifted, positions from 0 in each document. Needs torch."""
    import torch

    ids = torch.tensor([list(row.input_ids) for row in rows])
    document = torch.tensor([list(row.document) for row in rows], dtype=torch.int32)
    labels, positions = torch.full_like(ids, -100), torch.zeros_like(ids)
    for b, row in enumerate(rows):
        for i in range(len(row.input_ids)):
            same = i > 0 and row.document[i] == row.document[i - 1]
            positions[b, i] = positions[b, i - 1] + 1 if same else 0
            if same and row.labelled[i] and row.document[i] >= 0:
                labels[b, i - 1] = row.input_ids[i]
    return Batch(ids, positions, labels, document, tuple(row.key for row in rows))


def batch_on(batch: Batch, device: Any) -> Batch:
    """Return the batch with its tensors on a device."""
    tensors = {name: getattr(batch, name).to(device) for name in ("input_ids", "positions", "labels", "document")}
    return replace(batch, **tensors)


class ToyRuntime(Runtime):
    """An opened subject: answers with fixed text, has a `toy_model` and scores by it.

    Where torch is not installed, `model` is None and bytes have fixed probabilities. `closed` counts calls of `close`.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = random.Random(f"runtime {seed}")
        weights = [rng.random() + 0.1 for _ in range(257)]
        self._costs = [log(sum(weights)) - log(weight) for weight in weights]
        self._text = "".join(rng.choice("abcdef =()\n") for _ in range(200))
        self.model: LanguageModel | None = toy_model(seed) if find_spec("torch") else None
        self.closed = 0

    def answer(self, requests: Iterable[Request]) -> Iterator[TextAnswer]:
        """Yield the same text for every request, up to its first stop or its number of tokens; too long ones are refused."""
        for request in requests:
            if self.model and len(request.prompt.encode("utf-8")) >= self.model.facts.context:
                yield TextAnswer(request.id, "", "refused", len(request.prompt.encode("utf-8")), 0)
                continue
            text = self._text[: request.max_tokens]
            ends = [found for stop in request.stop if stop and (found := text.find(stop)) >= 0]
            text = text[: min(ends, default=len(text))]
            tokens = len(request.prompt.encode("utf-8"))
            yield TextAnswer(request.id, text, "stop" if ends else "length", tokens, len(text))

    def score(self, texts: Sequence[str]) -> Iterator[Score]:
        """Yield the log-likelihood of each text's bytes by the model, or by fixed probabilities where there is none."""
        from kdtool.testing._continued import log_likelihood

        for text in texts:
            content = text.encode("utf-8")
            costs = -sum(self._costs[byte] for byte in content)
            yield Score(log_likelihood(self.model, text) if self.model else costs, len(content), len(content))

    def close(self) -> None:
        """Count."""
        self.closed += 1


class Opener(Exporter):
    """Opens every subject but those named in `refused`, each name with weights of its own, and remembers the runtimes."""

    def __init__(self, *refused: str) -> None:
        super().__init__(self.Config())
        self._refused = refused
        self.opened: list[ToyRuntime] = []

    def kdtool_open(self, run: RunInfo, subject: Subject) -> Runtime | None:
        if subject.name in self._refused:
            return None
        self.opened.append(ToyRuntime(sum(subject.name.encode())))
        return self.opened[-1]


def _config(layers: int) -> Mapping[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "vocab_size": _VOCABULARY, "hidden_size": _WIDTH, "intermediate_size": _INNER, "num_hidden_layers": layers,
        "num_attention_heads": _HEADS, "num_key_value_heads": _PAIRS, "head_dim": _WIDTH // _HEADS,
        "max_position_embeddings": _CONTEXT, "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
        "bos_token_id": 256, "eos_token_id": 256, "dtype": "float32", "torch_dtype": "float32",
    }  # fmt: skip


def _tokenizer_files() -> Mapping[str, object]:
    end = "<|endoftext|>"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added: dict[str, object] = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    model: dict[str, object] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False}
    return {
        "tokenizer.json": {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": 256, "content": end, **added}],
            "normalizer": None,
            "pre_tokenizer": level,
            "post_processor": None,
            "decoder": level,
            "model": {**model, "vocab": {letter: byte for byte, letter in enumerate(_letters())}, "merges": []},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": end,
            "eos_token": end,
            "clean_up_tokenization_spaces": False,
        },
    }


def _letters() -> list[str]:
    """Return the printable letter that stands for each byte in byte-level tokenizers (GPT-2's table)."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
