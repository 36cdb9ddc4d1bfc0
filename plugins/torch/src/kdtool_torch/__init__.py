"""Library for what computes with torch: batches, logits by chunks, recorded signals, device and random state. Not a plugin.

- `collate` makes batches of rows that a packer made; labels are shifted there and nowhere else (`_batches`). `PhaseTerms`
  evaluates the terms of a phase on them (`_phase_terms`), with token weights relative to their mean (`WeightMeans`).
  `loss_mask` leaves rejected text out; `sum_over_ranks` adds the counts of several processes
- `move` brings a batch to a device; indices and lengths that depend on its values are computed in main memory
  (`compute_on_host`, `label_index`, `document_bounds`, `batch_rows`), so that no GPU waits (`_on_host`)
- Sequence losses get final states and heads (`kdtool.StepView`), and logits of a micro-batch never exist all at once:
  `both_sides` gives student and teacher at the labelled positions (`_sides`), `Side.likelihoods` the likelihoods of their
  labels, and `in_chunks` any other function of logits (`_chunks`)
- `chunked_loss` is a token loss with the student's head as a plain function, for training loops without kdtool
  (`_chunked_loss`)
- `pair_layers` pairs layers of student and teacher for losses that compare them (`_layers`)
- `chosen_tokens` gives a teacher's log-probabilities of tokens that the student chose (`_chosen`)
- Evaluators, which report what they compute, get logits from `exact_logits` by an `exact_head` (`_exact`). Losses and
  recorded signals get `unrounded_logits`, which cost nothing more where the device returns float32 (`_half_products`)
- `Documents` finds the documents of rows, and the blocks and masks of attention within them (`_documents`)
- `Sampler` and `choose` draw the next tokens of texts, each by its own generator (`_sampling`)
- `score_texts` and `score_continuations` compute log-likelihoods by a language model (`_scoring`); `LogitsRuntime` opens a
  teacher that only has logits (`_logits_runtime`)
- A cache defines what to keep of a signal (`Recording`): `record_rows` writes shards that are complete or absent after a
  kill, `RecordedRows` finds rows by key and verifies them, `recording_estimates` predicts memory and disk, and
  `load_manifests` reads the facts of a folder
- `self_check` compares a wrapped model with itself before training, `require_same_logits` a rewritten one with the original
- `widen`, `release_mapping` and `give_back_memory` keep memory low where weights are converted; `eval_mode` is for inference
- `complete_folder` and `content_hash` keep large files in the user's cache; `windows` cuts a text beyond a model's context
- `student_estimates`, `forward_bytes` and `itemsize` predict memory and disk for `kdtool check`
- `pick_device` and `compute_dtype` choose device and precision (`_device`); `isolated_rng` isolates runs in one
  process, `seed_generators` seeds random numbers

torch is imported when it is used: importing this package is cheap.
"""

from __future__ import annotations

from kdtool_torch._batches import NO_LABEL, collate
from kdtool_torch._chosen import chosen_tokens
from kdtool_torch._chunked_loss import chunked_loss
from kdtool_torch._chunks import in_chunks
from kdtool_torch._complete_folders import complete_folder, content_hash, is_complete
from kdtool_torch._device import (
    DeviceName,
    DtypeName,
    compute_dtype,
    devices_here,
    free_gpu_bytes,
    gpu_bytes,
    has_bfloat16,
    has_flash,
    named_device,
    pick_device,
    product_speed,
)
from kdtool_torch._documents import Block, Documents
from kdtool_torch._eval_mode import eval_mode
from kdtool_torch._exact import exact_head, exact_logits
from kdtool_torch._half_products import (
    logits_product,
    product_in_float32,
    returns_float32,
    scale_and_cap,
    unrounded_logits,
)
from kdtool_torch._isolated_rng import isolated_rng, seed_generators
from kdtool_torch._layers import pair_layers
from kdtool_torch._likelihood import log_likelihood
from kdtool_torch._logits_runtime import LogitsRuntime
from kdtool_torch._loss_mask import loss_labels, loss_mask, select
from kdtool_torch._moved import copy_to_host, map_tensors, move, original_of
from kdtool_torch._on_host import (
    batch_rows,
    compute_on_host,
    document_bounds,
    is_labelled,
    label_index,
    select_at_labels,
)
from kdtool_torch._phase_terms import PhaseTerms
from kdtool_torch._precision import LOWEST, at_least_float32, log_probabilities
from kdtool_torch._ranks import max_over_ranks, sum_over_ranks
from kdtool_torch._recall import RecordedRows
from kdtool_torch._record import Recording, record_rows
from kdtool_torch._recording_estimates import recording_estimates
from kdtool_torch._safetensors import give_usual_mode, write_safetensors
from kdtool_torch._sampling import Sampler, choose
from kdtool_torch._scoring import score_continuations, score_texts
from kdtool_torch._self_check import require_same_logits, self_check
from kdtool_torch._shard_files import load_manifests
from kdtool_torch._sides import Side, both_sides
from kdtool_torch._sizes import forward_bytes, itemsize, store_as, stored_bytes
from kdtool_torch._student_estimates import student_estimates
from kdtool_torch._user_cache import cache_folder, write_cached
from kdtool_torch._weight_means import WeightMeans
from kdtool_torch._weights_memory import give_back_memory, release_mapping, widen
from kdtool_torch._windows import Window, windows

__all__ = [
    "LOWEST",
    "NO_LABEL",
    "Block",
    "DeviceName",
    "Documents",
    "DtypeName",
    "LogitsRuntime",
    "PhaseTerms",
    "RecordedRows",
    "Recording",
    "Sampler",
    "Side",
    "WeightMeans",
    "Window",
    "at_least_float32",
    "batch_rows",
    "both_sides",
    "cache_folder",
    "choose",
    "chosen_tokens",
    "chunked_loss",
    "collate",
    "complete_folder",
    "compute_dtype",
    "compute_on_host",
    "content_hash",
    "copy_to_host",
    "devices_here",
    "document_bounds",
    "eval_mode",
    "exact_head",
    "exact_logits",
    "forward_bytes",
    "free_gpu_bytes",
    "give_back_memory",
    "give_usual_mode",
    "gpu_bytes",
    "has_bfloat16",
    "has_flash",
    "in_chunks",
    "is_complete",
    "is_labelled",
    "isolated_rng",
    "itemsize",
    "label_index",
    "load_manifests",
    "log_likelihood",
    "log_probabilities",
    "logits_product",
    "loss_labels",
    "loss_mask",
    "map_tensors",
    "max_over_ranks",
    "move",
    "named_device",
    "original_of",
    "pair_layers",
    "pick_device",
    "product_in_float32",
    "product_speed",
    "record_rows",
    "recording_estimates",
    "release_mapping",
    "require_same_logits",
    "returns_float32",
    "scale_and_cap",
    "score_continuations",
    "score_texts",
    "seed_generators",
    "select",
    "select_at_labels",
    "self_check",
    "store_as",
    "stored_bytes",
    "student_estimates",
    "sum_over_ranks",
    "unrounded_logits",
    "widen",
    "windows",
    "write_cached",
    "write_safetensors",
]
