"""Small stand-ins for what a component meets in a run: the run itself, rows, tokenizers, a model in a folder.

`make_run` gives a run with its folder, the components that `run.hook` reaches and a tracker that listens. Tokenizers are of
bytes: plain, with a space before every text, with a token before every document. Files are written with the standard
library only, and opened by transformers. Torch is imported in `batch_of`.
"""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from struct import pack
from typing import Any

from kdtool import Batch, Component, Example, Row, RunInfo, Split, Tokenizer, Tracker
from kdtool._plugins.hooks import ComponentHooks


class _ListTexts:
    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def examples(self, split: Split) -> Iterator[Example]:
        return (example for example in self._examples if example.split == split)


def make_run(
    folder: Path, components: Mapping[str, Component] | None = None, examples: Sequence[Example] = (), **fields: Any
) -> RunInfo:
    """Return a run's surroundings for tests.

    Args:
        folder: the folder that the component may write into.
        components: what `run.hook` reaches, by name.
        examples: what `run.texts` gives.
        fields: further fields of `RunInfo`, for instance `seed` or `offline`.
    """
    given = {"name": "test", "stage": "test", **fields}
    return RunInfo(folder=folder, hook=ComponentHooks(components or {}), texts=_ListTexts(examples), **given)


class Listener(Tracker):
    """A tracker that records progress."""

    def __init__(self) -> None:
        super().__init__(self.Config())
        self.progress: list[int] = []

    def kdtool_progress(self, run: RunInfo, done: int, total: int | None) -> None:
        self.progress.append(done)


class ListSource:
    """Rows in memory, as a `kdtool.RowSource`."""

    fingerprint = "rows of a test"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.length = len(rows[0].input_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def batch_of(rows: Sequence[Row]) -> Batch:
    """Collate rows as the engine's trainers do: labels shifted, positions from 0 in each document. Needs torch."""
    import torch

    ids = torch.tensor([list(row.input_ids) for row in rows])
    document = torch.tensor([list(row.document) for row in rows], dtype=torch.int32)
    labels, positions = torch.full_like(ids, -100), torch.zeros_like(ids)
    columns = {name: torch.zeros_like(ids) for name in rows[0].columns}
    for b, row in enumerate(rows):
        for i in range(len(row.input_ids)):
            same = i > 0 and row.document[i] == row.document[i - 1]
            positions[b, i] = positions[b, i - 1] + 1 if same else 0
            if same and row.labelled[i] and row.document[i] >= 0:
                labels[b, i - 1] = row.input_ids[i]
                for name, column in columns.items():
                    column[b, i - 1] = row.columns[name][i]
    return Batch(ids, positions, labels, document, tuple(row.key for row in rows), columns)


def batch_on(batch: Batch, device: Any) -> Batch:
    """Return the batch with its tensors on a device."""
    tensors = {name: getattr(batch, name).to(device) for name in ("input_ids", "positions", "labels", "document")}
    return replace(batch, **tensors)


class ByteTokenizer(Tokenizer):
    """One token for each byte of UTF-8, and 256 for the end of a text."""

    vocabulary = 257
    end_of_text = 256
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text`."""
        return list(text.encode("utf-8"))

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the end of a text."""
        return [bytes([i]) if i < 256 else b"" for i in ids]

    def save(self, folder: Path) -> None:
        """Write the files that `transformers.AutoTokenizer` opens."""
        write_tokenizer(folder)


class SpacedTokenizer(ByteTokenizer):
    """Puts a space before every text, which decoding takes away, as tokenizers like sentencepiece's do."""

    fingerprint = "bytes after a space"

    def encode(self, text: str) -> list[int]:
        """Return a space and the bytes of `text`."""
        return super().encode(f" {text}" if text else "")

    def encode_behind(self, before: str, text: str) -> list[int]:
        """Return the bytes of `text`, with a space before them only if `before` is empty."""
        return super().encode(text) if before else self.encode(text)

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Return the byte of each id, none for the space before the text."""
        pieces = super().pieces(ids)
        first = next((number for number, piece in enumerate(pieces) if piece), None)
        if first is not None and pieces[first] == b" ":
            pieces[first] = b""
        return pieces


class StartedTokenizer(ByteTokenizer):
    """Begins every document with the token 257, as tokenizers like Llama's do."""

    vocabulary = 258
    document_start = (257,)
    fingerprint = "bytes after a start"


def write_tokenizer(folder: Path) -> None:
    """Write the files of a tokenizer of bytes, as `transformers` reads them."""
    for name, content in _tokenizer_files().items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


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
            "model": {**model, "vocab": {letter: byte for byte, letter in enumerate(_byte_letters())}, "merges": []},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": end,
            "eos_token": end,
            "clean_up_tokenization_spaces": False,
        },
    }


def _byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte in byte-level tokenizers (GPT-2's table)."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


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
    (folder / "config.json").write_text(json.dumps(_model_config(layers)), encoding="utf-8")
    write_tokenizer(folder)
    return folder


def _model_config(layers: int) -> Mapping[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "vocab_size": _VOCABULARY, "hidden_size": _WIDTH, "intermediate_size": _INNER, "num_hidden_layers": layers,
        "num_attention_heads": _HEADS, "num_key_value_heads": _PAIRS, "head_dim": _WIDTH // _HEADS,
        "max_position_embeddings": _CONTEXT, "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
        "bos_token_id": 256, "eos_token_id": 256, "dtype": "float32", "torch_dtype": "float32",
    }  # fmt: skip


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
