"""GGUF files as folders of safetensors, converted once into the user's cache.

GGUF is data, never code. Files are checked while they are read, since the gguf library trusts every length in a header.
Quantised weights are dequantised and stored in bfloat16, the precision that models compute in; the tokenizer is stored with
them. The folder is named by the file's content.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import takewhile
from pathlib import Path
from typing import Any

import kdtool
import numpy as np
from gguf import GGUFReader, GGUFValueType, TokenType
from kdtool_torch import cache_folder, complete_folder, content_hash, give_usual_mode, isolated_rng

from kdtool_transformers.model import without_weights
from kdtool_transformers.weights import no_progress_bar, require_complete

_FORMAT = 3
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
    reader = read_gguf(file)
    target = cache_folder() / f"{file.stem}-{content_hash(file)[:16]}-{_FORMAT}"
    try:
        with complete_folder(target) as partial:
            if partial is not None:
                megabytes = file.stat().st_size / 1e6
                say(f"converting {file.name} ({megabytes:.0f} MB) to safetensors, once, into {target}")
                convert_gguf_into(file, partial, say, reader)
    except PermissionError as error:
        raise kdtool.StorageError(f"{target.parent} cannot be written: {error}") from error
    return target


def save_gguf_tokenizer(file: Path, folder: Path, reader: GGUFReader | None = None) -> None:
    """Write the tokenizer of a GGUF file into a folder, as `convert_gguf` does; its weights are not read.

    Unused tokens at the end of its list only fill rows of the embedding, and are left out.

    Raises:
        UsageError: transformers cannot read the file.
    """
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import AutoTokenizer

    about = _about(reader or read_gguf(file), "tokenizer.ggml.")
    try:
        _count_tokens(about)
        with isolated_rng(), _quiet():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise kdtool.UsageError(f"the tokenizer of {file} cannot be read: {_reason(error)}") from error
    if about.get("pre") in _DIGITS_ALONE:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    kinds = about.get("token_type", [])
    if unused := sum(1 for _ in takewhile(TokenType.UNUSED.__eq__, reversed(kinds))):
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        model = content["model"]
        model["vocab"] = {token: index for token, index in model["vocab"].items() if index < len(kinds) - unused}
        model["merges"] = [merge for merge in model["merges"] if "".join(merge) in model["vocab"]]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.save_pretrained(folder)
    ends = sorted({about[key] for key in ("eos_token_id", "eot_token_id", "eom_token_id") if key in about})
    target = folder / "generation_config.json"
    content = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    target.write_text(json.dumps({**content, "eos_token_id": ends}, indent=1) + "\n", encoding="utf-8")


def convert_gguf_into(
    file: Path, folder: Path, say: Callable[[str], None] = print, reader: GGUFReader | None = None
) -> None:
    """Write a GGUF file's content into a folder as safetensors, configuration and tokenizer. Raises as `convert_gguf`."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    reader = reader or read_gguf(file)
    try:
        with isolated_rng(), _quiet():
            loaded, missed = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                config=_fitting_config(file, reader),
                output_loading_info=True,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
                local_files_only=True,
            )
            require_complete(file, loaded, missed)
            _tie(loaded, file, reader, say)
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
        raise kdtool.UsageError(
            f"{file} cannot be converted: {_reason(error)}; download it again, or take the model as safetensors"
        ) from error
    save_gguf_tokenizer(file, folder, reader)


def _about(reader: GGUFReader, prefix: str) -> dict[str, Any]:
    """Return the metadata below a prefix."""
    return {k.removeprefix(prefix): field.contents() for k, field in reader.fields.items() if k.startswith(prefix)}


def _count_tokens(about: Mapping[str, Any]) -> int:
    """Return the length of a tokenizer's list of tokens; raise a ValueError if other lists or ids disagree with it."""
    tokens = len(about.get("tokens", ()))
    for key, value in about.items() if tokens else ():
        if key in ("scores", "token_type") and len(value) != tokens:
            raise ValueError(f"its list of tokens ends after {tokens}, but that of {key} after {len(value)}")
        if key.endswith("_token_id") and isinstance(value, int) and value >= tokens:
            raise ValueError(f"its list of tokens ends after {tokens}, but {key} is {value}")
    return tokens


def _fitting_config(file: Path, reader: GGUFReader) -> Any:
    """Return the configuration of a GGUF file that has the tensors of the model that it describes, no more and no fewer.

    transformers draws missing weights at random, and ignores tensors and scalings that it has no place for.

    Raises:
        ValueError: metadata and tensors disagree, or the file holds something that transformers ignores.
    """
    from transformers import AutoConfig
    from transformers.integrations.gguf import is_gguf_arch_supported

    kind = reader.fields["general.architecture"].contents()
    about = _about(reader, f"{kind}.")
    stored = {tensor.name.removesuffix(".weight"): [*map(int, tensor.shape[::-1])] for tensor in reader.tensors}
    blocks = len({name.split(".")[1] for name in stored if name.startswith("blk.")})
    if about.get("block_count") != blocks:  # before they are built one by one
        raise ValueError(f"block_count is {about.get('block_count')}, but it has tensors of {blocks} blocks")
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    if is_gguf_arch_supported(kind):  # by the newer reader of transformers, which names tensors otherwise
        return config
    config.vocab_size, head = stored["token_embd"][0], about.get("attention.key_length")
    if head and not hasattr(config, "global_head_dim"):
        config.head_dim = head
    if "position_embd" in stored:
        config.max_position_embeddings = stored["position_embd"][0]
    if scaling := _rotary_scaling(reader, about, config):
        config.rope_parameters = {**config.rope_parameters, **scaling}
        stored.pop("rope_freqs", None)
    tokens = _count_tokens(_about(reader, "tokenizer.ggml."))
    if tokens > config.vocab_size:
        raise ValueError(f"it has {tokens} tokens, but token_embd has {config.vocab_size} rows")
    claims = {"vocab_size": [config.vocab_size], "rope.scaling.type": ["none", scaling.get("rope_type")]}
    _require_shapes(kind, about, config, stored, claims)
    return config


def _require_shapes(
    kind: str,
    about: Mapping[str, Any],
    config: Any,
    stored: Mapping[str, Sequence[int]],
    claims: Mapping[str, Sequence[Any]],
) -> None:
    """Raise a ValueError unless the shapes `stored` by name are those of the configuration and of the metadata `about`.

    `claims` are further values that the metadata may have.
    """
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    model = without_weights(config)
    names, weights = get_gguf_hf_weights_map(model, TENSOR_PROCESSORS.get(kind, TensorProcessor)()), model.state_dict()
    expected = {name.removesuffix(".weight"): [*weights[other].shape] for name, other in names.items()}
    if config.tie_word_embeddings:
        expected.pop("output", None)
    turning = [2 * len(buffer) for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    head, width = about.get("attention.key_length"), stored.get("blk.0.attn_output", [0])[-1]
    order = sorted if kind == "gpt2" else list  # its matrices are transposed
    claims = {
        **claims,
        "feed_forward_length": stored.get("blk.0.ffn_down", [])[-1:],
        "attention.head_count": [width // head] if head and width and not hasattr(config, "global_head_dim") else [],
        "attention.value_length": [head] if head else [],
        "rope.dimension_count": turning,
    }
    problems = [
        *(f"{name} is missing" for name in sorted(expected.keys() - stored)),
        *(f"transformers has no place for {name} {stored[name]}" for name in sorted(stored.keys() - expected)),
        *(
            f"{key} is {about[key]}, expected {known[0]}"
            for key, known in claims.items()
            if known and isinstance(about.get(key), int | str) and about[key] not in known
        ),
        *(
            f"{name} is {shape}, expected {right} by the metadata"
            for name, shape, right in ((name, stored[name], expected[name]) for name in stored if name in expected)
            if "_exps" not in name and order(n for n in shape if n > 1) != order(n for n in right if n > 1)
        ),
    ]
    if problems:
        raise ValueError(problems[0])


def _rotary_scaling(reader: GGUFReader, about: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return how a file scales rotary frequencies, in transformers' terms; {} if it does not, or in another way.

    For Llama 3.1's way a file holds only what each frequency is divided by: 1 for short waves, a factor for long ones, and
    a blend between a quarter of the original context and all of it, from which that context follows.
    """
    known = {
        key.removeprefix("rope.scaling."): value for key, value in about.items() if key.startswith("rope.scaling.")
    }
    kind, factor, original = (known.pop(key, None) for key in ("type", "factor", "original_context_length"))
    divisors = next((tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
    if divisors is not None:
        size = 2 * len(divisors)
        waves = 2 * np.pi * config.rope_parameters["rope_theta"] ** (np.arange(0, size, 2) / size)
        factor = float(divisors.max())
        blended = (divisors > 1) & (divisors < factor)
        if not blended.any():
            return {}
        shares = (1 / divisors - 1 / factor) / (1 - 1 / factor)
        original = round(float(np.median((waves * (1 + 3 * shares))[blended])))
        expected = 1 / (np.clip((original / waves - 1) / 3, 0, 1) * (1 - 1 / factor) + 1 / factor)
        names = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": original}
        return {"rope_type": "llama3", "factor": factor, **names} if np.allclose(divisors, expected, rtol=1e-4) else {}
    if kind == "linear" and factor and not known:
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor and original and not known.keys() - {"attn_factor"}:
        scale = known.get("attn_factor", 1.0) * (1 + 0.1 * np.log(factor))
        names = {"original_max_position_embeddings": original, "attention_factor": float(scale)}
        return {"rope_type": "yarn", "factor": factor, **names}
    return {}


def _tie(model: Any, file: Path, reader: GGUFReader, say: Callable[[str], None]) -> None:
    """Tie embedding and head if they are two roundings of one matrix, as llama.cpp stores tied ones; keep the better one.

    Roundings to b bits differ from normally distributed weights by about 2^(1-b) of their size, and matrices that were
    trained apart by more than their whole size.
    """
    bits = {tensor.name: 8 * tensor.n_bytes / tensor.n_elements for tensor in reader.tensors}
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
        _ = reader.fields["general.architecture"].contents(), reader.tensors[0]
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
