"""Opening models and tokenizers from folders and Hub names, with errors that say what to do.

Safetensors only, never code from a repository (`trust_remote_code` stays off), no network when offline. GGUF files are
converted first. Exceptions of transformers about a model's files become errors for users. Light: torch and transformers
load in functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import kdtool

from kdtool_transformers.vetting import prepare, require_openable

if TYPE_CHECKING:
    import torch

    from kdtool_transformers.model import TransformersModel
    from kdtool_transformers.tokenizer import TransformersTokenizer
    from kdtool_transformers.weights import Quantisation

_OPTIONS = (
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)
"""Attributes of a tokenizer's model."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def open_model(
    source: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    offline: bool = False,
    quantise: Quantisation | None = None,
    device_map: Literal["auto"] | None = None,
    adapter: Path | None = None,
    divided: bool = False,
) -> TransformersModel:
    """Open a causal language model from a folder or by its Hub name. It is in evaluation mode.

    Args:
        source: folder or Hub name.
        dtype: None keeps the stored one.
        device: device of the model; with `device_map`, of its head and of batches.
        revision: of a Hub name.
        offline: use only files on this machine.
        quantise: keep the weights of linear layers in few bits, by bitsandbytes.
        device_map: "auto" lets accelerate spread layers over GPUs, memory and disk.
        adapter: folder of a PEFT adapter, which is folded in, or kept next to quantised weights.
        divided: keep only this process's part of each layer (see `read_divided`); all processes of the run call it.

    Raises:
        UsageError: the folder is missing, is not a model, holds pickled or incomplete weights, or needs custom code; the
            adapter is invalid or another model's; a requested library is not installed.
        StorageError: a weight file is damaged.
        ServiceError: it is not in the local cache and the Hub cannot be reached or must not be.
    """
    where = resolve(source)
    prepare(where)
    import torch
    from kdtool_torch import isolated_rng

    from kdtool_transformers.model import TransformersModel
    from kdtool_transformers.weights import loading_settings, no_progress_bar, place_head

    _require_files(where, adapter)
    config = open_config(source, revision=revision, offline=offline)
    if adapter is not None and (folder := _local_folder(where, revision, offline, "config.json")) is not None:
        require_openable(folder, adapter)
    tokenizer = open_tokenizer(source, revision=revision, offline=offline)
    with explain(source, where, offline), isolated_rng(), no_progress_bar():
        model = None
        if divided and adapter is None:
            from kdtool_transformers.divided import read_divided  # imports FSDP

            folder = _folder_of(where, revision, offline)
            model = read_divided(folder, config, dtype or config.dtype, torch.device(device))
        if model is None:
            settings = loading_settings(config, dtype, "cpu" if divided else device, quantise, device_map)
            model = _read_weights(where, config, dtype=dtype or "auto", revision=revision, offline=offline, **settings)
            model = _finish_whole(model, adapter, quantise, torch.device(device) if divided else None)
    if device_map is not None:
        place_head(model, device)
    origin = read_origin(where)
    opened = TransformersModel(model.eval(), tokenizer, origin.get("copied_layers", ()))
    opened.base = origin.get("built_from", "")
    return opened


def _require_files(where: Path | str, adapter: Path | None) -> None:
    """Refuse an adapter without its files, and a folder without safetensors."""
    if adapter is not None:
        from kdtool_transformers.weights import require_adapter

        require_adapter(adapter)
    if isinstance(where, Path):
        _require_safetensors(where)


def _finish_whole(
    model: Any, adapter: Path | None, quantise: Quantisation | None, divided_on: torch.device | None
) -> Any:
    """Put the adapter into a whole model, and keep this process's part on `divided_on`, unless they are None."""
    if adapter is not None:
        from kdtool_transformers.weights import add_adapter

        model = add_adapter(model, adapter, quantise)
    if divided_on is not None:
        from kdtool_transformers.divided import divide_layers

        divide_layers(model, divided_on)
    return model


def find_model_folder(name: str, *, offline: bool = False) -> Path | None:
    """Return the folder of a model on the Hub in the Hub's cache, into which it is fetched; None for other text.

    Raises:
        ServiceError: it is not there, and the Hub cannot be reached or must not be.
    """
    if not _is_hub_name(name):
        return None
    with explain(name, name, offline):
        folder = _folder_of(name, None, offline)
        if not any(folder.glob("*.safetensors")):
            raise OSError("it has no *.safetensors")
    return folder


def _folder_of(where: Path | str, revision: str | None, offline: bool) -> Path:
    """Return the folder of a model; the files of a Hub name are fetched if they are not in its cache."""
    from huggingface_hub import snapshot_download

    if isinstance(where, Path):
        return where
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt"]
    return Path(snapshot_download(where, revision=revision, local_files_only=offline, allow_patterns=patterns))


def _read_weights(where: Path | str, config: Any, *, revision: str | None, offline: bool, **settings: Any) -> Any:
    """Read a causal language model from safetensors. Raises as `require_complete`."""
    from transformers import AutoModelForCausalLM

    from kdtool_transformers.weights import require_complete

    model, loaded = AutoModelForCausalLM.from_pretrained(
        where,
        config=config,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=offline,
        revision=revision,
        output_loading_info=True,
        **settings,
    )
    require_complete(where, model, loaded)
    return model


def open_tokenizer(source: str | Path, *, revision: str | None = None, offline: bool = False) -> TransformersTokenizer:
    """Open a tokenizer from a folder, by its Hub name, or out of a GGUF file, without weights. Raises as `open_model`."""
    path = Path(source).expanduser()
    if path.suffix.lower() == ".gguf" and path.is_file():
        from kdtool_transformers.gguf import save_gguf_tokenizer

        with TemporaryDirectory() as scratch:
            save_gguf_tokenizer(path, Path(scratch))
            return open_tokenizer(scratch)
    # A folder with only a tokenizer suffices.
    where = path if (path / "tokenizer.json").is_file() else resolve(source)
    prepare(where)
    from transformers import AutoTokenizer

    from kdtool_transformers.tokenizer import TransformersTokenizer
    from kdtool_transformers.weights import forget_beyond

    settings: dict[str, Any] = {"trust_remote_code": False, "local_files_only": offline, "revision": revision}
    with explain(source, where, offline, ": its tokenizer"):
        folder = _local_folder(where, revision, offline, "tokenizer.json")
        inner = AutoTokenizer.from_pretrained(where, **settings)
        if type(inner).__name__ == "CodeLlamaTokenizer":
            # It adds <FILL_ME> to the vocabulary, after the last token that the model knows.
            inner = AutoTokenizer.from_pretrained(where, fill_token=None, **settings)
        elif folder is not None and (folder / "tokenizer.json").is_file():
            inner = _as_stored(inner, folder, where, settings)
        if set(inner.get_vocab()) <= set(inner.all_special_tokens):  # transformers created an empty one
            raise ValueError(NO_TOKENIZER)
        stored = _configurations(where, revision, offline)
        forget_beyond(inner, {"vocab_size": None, **stored[0], **stored[0].get("text_config", {})}["vocab_size"])
        tokenizer = TransformersTokenizer(inner)
        # Chat models list the end of a turn only there.
        named = [config.get("eos_token_id") for config in stored]
        ends = [each if isinstance(each, list) else [each] for each in named if each is not None]
        tokenizer.stored_ends = sorted({*chain.from_iterable(ends)})
    return tokenizer


def _as_stored(inner: Any, folder: Path, where: Path | str, settings: Mapping[str, Any]) -> Any:
    """Return the tokenizer of tokenizer.json, which transformers 5 rebuilds by the class that tokenizer_config.json names.

    The class replaces how the file splits and normalises texts, and what it puts around them, by its own defaults
    (transformers issues 45488, 45812, 45920, 46489): models would read other tokens than they were trained with.

    Raises:
        ValueError: transformers cannot open it as it is.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if _differing(inner, stored, folder):
        inner = PreTrainedTokenizerFast.from_pretrained(where, **settings)
        if differing := _differing(inner, stored, folder):
            raise ValueError(f"transformers replaces its {', '.join(differing)} by others")
    return inner


def _differing(inner: Any, stored: Any, folder: Path) -> list[str]:
    """Return the parts in which an opened tokenizer differs from the one of tokenizer.json."""
    from kdtool_transformers.weights import read_json

    def of(tokenizer: Any, part: str) -> Any:
        content = getattr(tokenizer, part)
        if part == "model":
            return type(content), *(getattr(content, name, None) for name in _OPTIONS)
        return None if content is None else json.loads(content.__getstate__())

    backend, file = inner.backend_tokenizer, folder / "tokenizer_config.json"
    parts = ("normalizer", "pre_tokenizer", "decoder", "model")
    differing = [part for part in parts if of(backend, part) != of(stored, part)]
    asked = read_json(file).keys() & {"add_bos_token", "add_eos_token"} if file.is_file() else ()
    if not asked and backend.encode("x").ids != stored.encode("x").ids:
        differing.append("tokens around a text")
    known = backend.get_added_tokens_decoder()
    if any(str(known.get(index)) != str(token) for index, token in stored.get_added_tokens_decoder().items()):
        differing.append("added tokens")
    return differing


def _configurations(where: Path | str, revision: str | None, offline: bool) -> list[dict[str, Any]]:
    """Return the model's configuration and that of its generation, empty where there is none."""
    from kdtool_transformers.weights import read_json

    files = ("config.json", "generation_config.json")
    folders = [_local_folder(where, revision, offline, file) for file in files]
    paths = [folder and folder / file for folder, file in zip(folders, files, strict=True)]
    return [read_json(path) if path and path.is_file() else {} for path in paths]


def open_config(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Any:
    """Open the configuration of a folder or Hub name, compared with the weights there. Raises as `open_model`."""
    from transformers import AutoConfig

    from kdtool_transformers.weights import require_fit

    where = resolve(source)
    with explain(source, where, offline, "/config.json"):
        folder = _local_folder(where, revision, offline, "config.json")
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, local_files_only=offline, revision=revision)
        config._attn_implementation = config._experts_implementation = None  # they could name code in a repository
        vars(config).pop("transformers_weights", None)  # it could name pickled weights
        if folder is not None:
            require_fit(folder, config, is_cache=folder != where)
    return config


def resolve(source: str | Path) -> Path | str:
    """Return the folder that `source` names, or the Hub name that it is.

    Raises:
        UsageError: it is neither.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / "adapter_config.json").is_file():
                raise kdtool.UsageError(
                    f"{path} is not a model folder but holds a PEFT adapter, which needs a model: give that model, "
                    "and this folder as `adapter`, a setting of teachers (`kdtool eval --set teacher.use=causal-lm --set "
                    "teacher.model=… --set teacher.adapter=…` measures both together); or merge them once"
                )
            held = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
            raise kdtool.UsageError(
                f"{path} is not a model folder: its config.json is missing or not a file, it has {held}; give a saved model"
            )
        return path
    if path.is_file():
        raise kdtool.UsageError(f"{path} is a file; give the folder that holds config.json and the safetensors")
    if isinstance(source, str) and _is_hub_name(source):
        return source
    raise kdtool.UsageError(f"no such folder: {path}, and it is not a Hub name (those look like owner/name)")


def _is_hub_name(text: str) -> bool:
    """Return whether a name that is not a folder is one of the Hub: owner and name, or an old name that is cached."""
    from huggingface_hub import try_to_load_from_cache

    owner, _, name = text.partition("/")
    if not _HUB_NAME.fullmatch(text) or (name and Path(owner).is_dir()):
        return False
    files = ("config.json", "tokenizer.json", "tokenizer_config.json")
    return bool(name) or any(isinstance(try_to_load_from_cache(text, file), str) for file in files)


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(entry.name for pattern in ("*.bin", "*.pt", "*.pth") for entry in folder.glob(pattern))
    if pickled:
        raise kdtool.UsageError(
            f"{folder} holds only pickled weights ({', '.join(pickled[:3])}), which can run code when opened. If you trust "
            'them, convert once: python -c "import transformers as t; t.AutoModelForCausalLM.from_pretrained('
            f"'{folder}', use_safetensors=False).save_pretrained('{folder}')\""
        )
    raise kdtool.UsageError(f"{folder} has a config.json but no *.safetensors: the weights are missing")


def read_origin(where: Path | str) -> Mapping[str, Any]:
    """Return the metadata in a saved student's folder; empty for other models."""
    from kdtool_transformers.model import ORIGIN_FILE
    from kdtool_transformers.weights import read_json

    origin = where / ORIGIN_FILE if isinstance(where, Path) else None
    if origin is None or not origin.is_file():
        return {}
    return read_json(origin)


def _local_folder(where: Path | str, revision: str | None, offline: bool, file: str) -> Path | None:
    """Return the folder of a model; for a Hub name, the one with `file`, or None if the model lacks it.

    Raises:
        UsageError: opening it takes too much time or memory.
    """
    from transformers.utils import cached_file

    from kdtool_transformers.weights import read_json

    if isinstance(where, Path):
        folder = where
    else:
        cached = cached_file(
            where,
            file,
            local_files_only=offline,
            revision=revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if cached is None:
            return None
        folder = Path(cached).parent
    require_openable(folder)
    if (folder / "config.json").is_file():
        read_json(folder / "config.json")
    return folder


NO_TOKENIZER = "backend tokenizer"
"""Part of transformers' message if no file of a tokenizer is found."""


@contextmanager
def explain(source: str | Path, where: str | Path, offline: bool, part: str = "") -> Iterator[None]:
    """Convert exceptions of transformers into kdtool's errors: it raises any kind for a file that it cannot use.

    `where` is the folder or Hub name that `source` resolves to; `part` is the file that is read, as messages name it.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (kdtool.KdtoolError, MemoryError):
        raise
    except SafetensorError as error:
        raise kdtool.StorageError(
            f"the weights of {source} are damaged or cut off: {error}; fetch them again"
        ) from error
    except Exception as error:
        text = str(error).strip()
        if isinstance(error, RuntimeError) and "memory" in text:
            raise
        if "trust_remote_code" in text:
            raise kdtool.UsageError(
                f"{source} needs Python code from its own repository, which kdtool never runs; choose a model whose class "
                "is part of transformers"
            ) from error
        is_local = isinstance(where, Path)
        if is_local and NO_TOKENIZER in text:
            raise kdtool.UsageError(
                f"{source} has no tokenizer; copy tokenizer.json and tokenizer_config.json of its base model there"
            ) from error
        if offline and not is_local and isinstance(error, OSError | ValueError | KeyError):
            raise kdtool.ServiceError(
                f"{source} is neither a folder here nor in the local cache, and nothing is fetched now; fetch it first:\n"
                f"    hf download {source}"
            ) from error
        if not is_local and _is_gated(error):
            raise kdtool.ServiceError(
                f"{source} is gated on the Hub: its owner wants terms to be accepted. Accept them at "
                f"https://huggingface.co/{source} and log in with `hf auth login`, or set HF_TOKEN; then run again"
            ) from error
        if isinstance(error, OSError) and not is_local:
            raise kdtool.ServiceError(
                f"{source} could not be downloaded from the Hub: {_reason(error)}; check the name and the connection, or "
                "give a local folder"
            ) from error
        raise kdtool.UsageError(
            f"{source}{part} cannot be opened: {_reason(error)}; expected a model as transformers saves it: download or "
            "save it again"
        ) from error


def _is_gated(error: BaseException | None) -> bool:
    """Return whether the Hub refuses a file until the user has accepted terms."""
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        if isinstance(error, GatedRepoError) or "access a gated repo" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    """Return the beginning of an exception's text in one line, with its kind if it was not raised for users."""
    text = " ".join(str(error).split())[:300]
    return text if text and isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
