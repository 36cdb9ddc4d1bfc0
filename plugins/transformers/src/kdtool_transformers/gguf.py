"""GGUF files as folders of safetensors, converted once into the user's cache.

GGUF is data, never code. Files are checked while they are read, since the gguf library trusts every length in a header.
Quantised weights are dequantised and stored in bfloat16, the precision that models compute in; the tokenizer is stored with
them. The folder is named by the file's content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
from gguf import GGUFReader, GGUFValueType
from kdtool_torch import cache_folder, complete_folder, content_hash, give_usual_mode, isolated_rng

from kdtool_transformers.model import no_progress_bar

_FORMAT = 2
"""Increased whenever a conversion writes other files than before, so that old ones are not used."""
_DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r"}
"""Values of tokenizer.ggml.pre whose pre-tokenizer takes digits one by one before the GPT-2 pattern. transformers leaves
the digits out, which gives other ids wherever spaces precede a number."""


def convert_gguf(file: Path, say: Callable[[str], None] = print) -> Path:
    """Return a folder that `open_model` opens, with the content of a GGUF file.

    Raises:
        UsageError: transformers cannot read the file, or knows no such architecture.
        StorageError: the cache cannot be written.
    """
    read_gguf(file)
    target = cache_folder() / f"{file.stem}-{content_hash(file)[:16]}-{_FORMAT}"
    try:
        with complete_folder(target) as partial:
            if partial is not None:
                megabytes = file.stat().st_size / 1e6
                say(f"converting {file.name} ({megabytes:.0f} MB) to safetensors, once, into {target}")
                convert_gguf_into(file, partial, say)
    except PermissionError as error:
        raise kdtool.StorageError(f"{target.parent} cannot be written: {error}") from error
    return target


def save_gguf_tokenizer(file: Path, folder: Path) -> None:
    """Write the tokenizer of a GGUF file into a folder, as `convert_gguf` does; its weights are not read.

    Raises:
        UsageError: transformers cannot read the file.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    field = read_gguf(file).get_field("tokenizer.ggml.pre")
    try:
        with isolated_rng(), _quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise kdtool.UsageError(f"the tokenizer of {file} cannot be read: {_reason(error)}") from error
    if field is not None and field.contents() in _DIGITS_ALONE:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    tokenizer.save_pretrained(folder)
    _save_ends(file, folder)


def convert_gguf_into(file: Path, folder: Path, say: Callable[[str], None] = print) -> None:
    """Write a GGUF file's content into a folder as safetensors, configuration and tokenizer. Raises as `convert_gguf`."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        with isolated_rng(), _quiet():
            loaded = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
                local_files_only=True,
            )
            _tie(loaded, file, say)
            config = loaded.config
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            # A fresh model holds no trace of the quantised file, which save_pretrained would refuse to write.
            with torch.device("meta"):
                model = type(loaded)(config)
            model.load_state_dict(loaded.state_dict(), assign=True)
            model.tie_weights()
            model.save_pretrained(folder)
            for written in folder.glob("*.safetensors"):
                give_usual_mode(written)
    except Exception as error:  # transformers raises any kind
        if isinstance(error, OSError) and shutil.disk_usage(folder).free < 2 * file.stat().st_size:
            raise kdtool.StorageError(f"no room for the converted {file.name} in {folder.parent}: {error}") from error
        raise kdtool.UsageError(f"{file} cannot be converted: {_reason(error)}") from error
    save_gguf_tokenizer(file, folder)


def _tie(model: Any, file: Path, say: Callable[[str], None]) -> None:
    """Tie embedding and head if they are two roundings of one matrix, as llama.cpp stores tied ones; keep the better one.

    Roundings to b bits differ from normally distributed weights by about 2^(1-b) of their size, and matrices that were
    trained apart by more than their whole size.
    """
    bits = {tensor.name: 8 * tensor.n_bytes / tensor.n_elements for tensor in read_gguf(file).tensors}
    if "output.weight" not in bits:
        return
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    rows = slice(None, None, max(1, len(head.weight) // 4096))
    stored, other = (part.weight.detach()[rows].float() for part in (head, embedding))
    expected = 2 ** (2 - min(bits["output.weight"], bits["token_embd.weight"]))
    difference = float((stored - other).norm() / stored.norm())
    if difference > min(expected, 0.5):
        return
    if bits["output.weight"] >= bits["token_embd.weight"]:
        embedding.weight = head.weight
    else:
        head.weight = embedding.weight
    model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = True
    say(
        f"{file.name} stores one matrix twice, as embedding and as head, in {bits['token_embd.weight']:.3g} and "
        f"{bits['output.weight']:.3g} bits a weight ({difference:.1%} apart): both use the one with more bits"
    )


def _save_ends(file: Path, folder: Path) -> None:
    """Write the ends of an answer that the file names into generation_config.json: of a text, a turn and a message."""
    fields = (read_gguf(file).get_field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    ends = sorted({int(field.contents()) for field in fields if field is not None})
    target = folder / "generation_config.json"
    content = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    target.write_text(json.dumps({**content, "eos_token_id": ends}, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars off the terminal; that of its older reader can only be kept off with everything else."""
    with no_progress_bar(), Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stderr(nothing):
        yield


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


_MOST_ENTRIES = 1_000_000
"""Entries of an array: the largest published vocabularies have 260,000 tokens and 600,000 merges."""


def read_gguf(file: Path) -> GGUFReader:
    """Return the content of a GGUF file.

    Raises:
        UsageError: it is cut short, or its header does not describe it.
    """
    try:
        reader = _Reader(file)
        prefix = f"{reader.fields['general.architecture'].contents()}."
        greatest = max(len(reader.tensors), *(int(tensor.shape.max()) for tensor in reader.tensors))
        for key, field in reader.fields.items():
            is_size = key.startswith(prefix) and key.endswith(("_count", "_length")) and "context" not in key
            if is_size and np.max(field.contents()) > greatest:
                raise ValueError(f"{key} is {field.contents()}, but no tensor has that size")
    except Exception as error:  # the library raises any kind
        raise kdtool.UsageError(
            f"{file} is cut short or damaged ({_reason(error)}); expected a whole GGUF file: download it again"
        ) from error
    return reader


class _Reader(GGUFReader):  # type: ignore[misc]  # gguf ships no types
    """The library's reader, which ends at the end of the file and at arrays without end."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError(f"it ends after {len(self.data):,} bytes")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            kind, count = self._get(orig_offs, np.uint32)[0], self._get(orig_offs + 4, np.uint64)[0]
            if kind == GGUFValueType.ARRAY or count > _MOST_ENTRIES:
                raise ValueError(f"an array has {count} entries of the type {kind}")
        return super()._get_field_parts(orig_offs, raw_type)
