"""Language models of transformers as kdtool sees them: a library that teacher, student and exporter plugins share.

`open_model`, `open_tokenizer` and `open_runtime` open a folder (or a hub name); `TransformersModel`,
`TransformersTokenizer` and `TransformersRuntime` are what they give; `self_check` compares a wrapped model with itself
before training, `logits_kept` a rewritten one with what it was; `rehearse` counts what training keeps of an outline;
`CausalTeacher` is a whole teacher for plugins that only say where the weights come from,
`PublishedTeacher` one for families whose models are known by name; `LlamaStudent` a whole student from
random weights for plugins that only say its shape, `CausalStudent` one for those that build it otherwise; `alone` keeps
runs in one process apart. Names load when first used, so that importing this package imports neither torch nor
transformers. It has no entry points.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtool_transformers._alone import alone
    from kdtool_transformers._bytes import byte_tokenizer
    from kdtool_transformers._card import model_card, write_notices
    from kdtool_transformers._check import logits_kept, self_check
    from kdtool_transformers._counts import ParameterCount, readable_count
    from kdtool_transformers._device import (
        DtypeName,
        compute_dtype,
        has_bfloat16,
        has_flash,
        pick_device,
        product_speed,
    )
    from kdtool_transformers._files import (
        cache_folder,
        card_licence,
        complete_folder,
        is_complete,
        weights_identity,
        write_safetensors,
    )
    from kdtool_transformers._generate import evaluated
    from kdtool_transformers._gguf import convert_gguf, convert_gguf_into
    from kdtool_transformers._gguf_writing import require_gguf, require_gguf_ahead, write_gguf
    from kdtool_transformers._infilling import CODE_LLAMA, GAP, STARCODER, Infilling
    from kdtool_transformers._kernels import KERNEL_MULTIPLE, QUANT_MULTIPLE, kernel_notes
    from kdtool_transformers._licences import card_name, known_terms, licence_of, terms_of
    from kdtool_transformers._llama import LlamaShape
    from kdtool_transformers._memory import drop_mapped, give_back_memory, widen
    from kdtool_transformers._model import (
        TransformersFacts,
        TransformersModel,
        decoder_layers,
        facts_of,
        no_progress_bar,
    )
    from kdtool_transformers._open import (
        open_config,
        open_facts,
        open_model,
        open_runtime,
        open_tokenizer,
        without_weights,
    )
    from kdtool_transformers._parts import download_parts, forward_bytes, itemsize, student_parts
    from kdtool_transformers._published import (
        Published,
        PublishedTeacher,
        PublishedTeacherConfig,
        absent_config,
        absent_facts,
        published_model,
    )
    from kdtool_transformers._quantised import Quantisation
    from kdtool_transformers._rehearsal import AbsentTokenizer, Rehearsed, outline_of, rehearse, store_as, stored_bytes
    from kdtool_transformers._runtime import TransformersRuntime
    from kdtool_transformers._shape_search import TOLERANCE, best_shape
    from kdtool_transformers._sources import Source, find_source, source_identity
    from kdtool_transformers._student import CausalStudent, LlamaStudent, LlamaStudentConfig
    from kdtool_transformers._teacher import CausalTeacher, CausalTeacherConfig
    from kdtool_transformers._tokenizer import TransformersTokenizer
    from kdtool_transformers._windows import Window, windows

_HOMES = {
    "_alone": ("alone",),
    "_bytes": ("byte_tokenizer",),
    "_card": ("model_card", "write_notices"),
    "_check": ("logits_kept", "self_check"),
    "_counts": ("ParameterCount", "readable_count"),
    "_device": ("DtypeName", "compute_dtype", "has_bfloat16", "has_flash", "pick_device", "product_speed"),
    "_files": (
        "cache_folder",
        "card_licence",
        "complete_folder",
        "is_complete",
        "weights_identity",
        "write_safetensors",
    ),
    "_generate": ("evaluated",),
    "_gguf": ("convert_gguf", "convert_gguf_into"),
    "_gguf_writing": ("require_gguf", "require_gguf_ahead", "write_gguf"),
    "_kernels": ("KERNEL_MULTIPLE", "QUANT_MULTIPLE", "kernel_notes"),
    "_licences": ("card_name", "known_terms", "licence_of", "terms_of"),
    "_llama": ("LlamaShape",),
    "_infilling": ("CODE_LLAMA", "GAP", "STARCODER", "Infilling"),
    "_memory": ("drop_mapped", "give_back_memory", "widen"),
    "_model": (
        "TransformersFacts",
        "TransformersModel",
        "decoder_layers",
        "facts_of",
        "layers_among",
        "no_progress_bar",
    ),
    "_open": ("open_config", "open_facts", "open_model", "open_runtime", "open_tokenizer", "without_weights"),
    "_parts": ("download_parts", "forward_bytes", "itemsize", "student_parts"),
    "_published": (
        "Published",
        "PublishedTeacher",
        "PublishedTeacherConfig",
        "absent_config",
        "absent_facts",
        "published_model",
    ),
    "_quantised": ("Quantisation",),
    "_rehearsal": ("AbsentTokenizer", "Rehearsed", "outline_of", "rehearse", "store_as", "stored_bytes"),
    "_runtime": ("TransformersRuntime",),
    "_shape_search": ("TOLERANCE", "best_shape"),
    "_sources": ("Source", "find_source", "source_identity"),
    "_student": ("CausalStudent", "LlamaStudent", "LlamaStudentConfig"),
    "_teacher": ("CausalTeacher", "CausalTeacherConfig"),
    "_tokenizer": ("TransformersTokenizer",),
    "_windows": ("Window", "windows"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "CODE_LLAMA",
    "GAP",
    "KERNEL_MULTIPLE",
    "QUANT_MULTIPLE",
    "STARCODER",
    "TOLERANCE",
    "AbsentTokenizer",
    "CausalStudent",
    "CausalTeacher",
    "CausalTeacherConfig",
    "DtypeName",
    "Infilling",
    "LlamaShape",
    "LlamaStudent",
    "LlamaStudentConfig",
    "ParameterCount",
    "Published",
    "PublishedTeacher",
    "PublishedTeacherConfig",
    "Quantisation",
    "Rehearsed",
    "Source",
    "TransformersFacts",
    "TransformersModel",
    "TransformersRuntime",
    "TransformersTokenizer",
    "Window",
    "absent_config",
    "absent_facts",
    "alone",
    "best_shape",
    "byte_tokenizer",
    "cache_folder",
    "card_licence",
    "card_name",
    "complete_folder",
    "compute_dtype",
    "convert_gguf",
    "convert_gguf_into",
    "decoder_layers",
    "download_parts",
    "drop_mapped",
    "evaluated",
    "facts_of",
    "find_source",
    "forward_bytes",
    "give_back_memory",
    "has_bfloat16",
    "has_flash",
    "is_complete",
    "itemsize",
    "kernel_notes",
    "known_terms",
    "layers_among",
    "licence_of",
    "logits_kept",
    "model_card",
    "no_progress_bar",
    "open_config",
    "open_facts",
    "open_model",
    "open_runtime",
    "open_tokenizer",
    "outline_of",
    "pick_device",
    "product_speed",
    "published_model",
    "readable_count",
    "rehearse",
    "require_gguf",
    "require_gguf_ahead",
    "self_check",
    "source_identity",
    "store_as",
    "stored_bytes",
    "student_parts",
    "terms_of",
    "weights_identity",
    "widen",
    "windows",
    "without_weights",
    "write_gguf",
    "write_notices",
    "write_safetensors",
]

# Where bitsandbytes is installed, peft imports it with transformers, and it warns of a kernel package that nobody asked for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# Where torchao is installed, transformers imports it, and it tells of kernels for other GPUs and of its own enums.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").addFilter(lambda record: "register_constant" not in record.getMessage())


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'kdtool_transformers' has no attribute {name!r}")
    value = getattr(import_module(f"kdtool_transformers.{module}"), name)
    globals()[name] = value
    return value
