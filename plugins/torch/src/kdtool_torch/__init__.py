"""Code that computes with torch: the trainer `standard`, caches, optimizers, transforms, weightings, and their library.

To follow a training step, start at `trainer/loop.py`, which makes the steps of a phase. It calls `objective.py`: the student
and all that trains along, as one module that returns the loss. `head.py` projects final states to logits, chunk by chunk,
and `terms.py` computes the losses of a chunk and their gradients.

The names exported here serve any plugin that computes:

- Batches: `collate` makes them from rows, `move` brings them to a device. Indices that depend on their values are computed
  in main memory (`compute_on_host`, `label_index`), so that no GPU waits. `Documents` finds documents and their attention
  masks
- Logits: losses and signals get `unrounded_logits`, evaluators `exact_logits`. Those of a micro-batch never exist all at
  once: sequence losses take `both_sides` and `in_chunks`
- Losses in other loops: `chunked_loss` without kdtool, `PhaseTerms` in your own trainer
- Text: `Sampler` draws tokens, `score_texts` computes log-likelihoods, `LogitsRuntime` opens a teacher that only has logits
- Recordings: `record_rows` writes a cache's signals, `RecordedRows` reads them
- Models: `self_check` before training, `require_same_logits` after rewriting, `isolated_rng` around both
- Machine and files: `pick_device`, `compute_dtype`, `complete_folder`, `content_hash`, and estimates for `kdtool check`

Importing this package is cheap: torch is imported when it is used. Components are in the sub-packages.
"""

from __future__ import annotations

from kdtool_torch.batch import (
    NO_LABEL,
    Block,
    Documents,
    batch_rows,
    collate,
    compute_on_host,
    copy_to_host,
    is_labelled,
    label_index,
    loss_labels,
    loss_mask,
    move,
    select,
    select_at_labels,
)
from kdtool_torch.chunked import chunked_loss
from kdtool_torch.device import (
    DeviceName,
    DtypeName,
    compute_dtype,
    devices_here,
    free_gpu_bytes,
    gpu_bytes,
    has_bfloat16,
    has_flash,
    isolated_rng,
    max_over_ranks,
    named_device,
    pick_device,
    product_speed,
    sum_over_ranks,
)
from kdtool_torch.estimates import (
    forward_bytes,
    itemsize,
    recording_estimates,
    store_as,
    stored_bytes,
    student_estimates,
)
from kdtool_torch.files import (
    cache_folder,
    complete_folder,
    content_hash,
    give_usual_mode,
    is_complete,
    write_cached,
    write_safetensors,
)
from kdtool_torch.model import (
    give_back_memory,
    layers_among,
    pair_layers,
    release_mapping,
    require_same_logits,
    self_check,
    widen,
)
from kdtool_torch.numerics import (
    LOWEST,
    Side,
    at_least_float32,
    both_sides,
    chosen_tokens,
    eval_mode,
    exact_head,
    exact_logits,
    in_chunks,
    log_likelihood,
    log_probabilities,
    unrounded_logits,
)
from kdtool_torch.phase_terms import PhaseTerms
from kdtool_torch.recording import Recording, record_rows
from kdtool_torch.sampling import Sampler, choose
from kdtool_torch.scoring import LogitsRuntime, score_continuations, score_texts, windows
from kdtool_torch.shards import RecordedRows, load_manifests
from kdtool_torch.weightings.tokens import WeightMeans

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
    "layers_among",
    "load_manifests",
    "log_likelihood",
    "log_probabilities",
    "loss_labels",
    "loss_mask",
    "max_over_ranks",
    "move",
    "named_device",
    "pair_layers",
    "pick_device",
    "product_speed",
    "record_rows",
    "recording_estimates",
    "release_mapping",
    "require_same_logits",
    "score_continuations",
    "score_texts",
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
