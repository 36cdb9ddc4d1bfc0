"""Library for code that computes with torch: batches, logits in chunks, recorded signals, device, random state.

- `collate` makes batches of the rows of a packer; labels are shifted there and nowhere else. `move` brings a batch to a
  device. Indices and lengths that depend on its values are computed in main memory (`compute_on_host`, `label_index`,
  `document_bounds`, `batch_rows`), so that no GPU waits. `Documents` finds the documents of rows, and attention's
  blocks and masks
- `loss_mask` leaves rejected text out of token losses, `WeightMeans` makes token weights relative, `sum_over_ranks`
  adds counts of several processes. `PhaseTerms` evaluates the terms of a phase, for trainers that keep all logits of a
  micro-batch
- Sequence losses get final states and heads (`kdtool.StepView`), so logits of a micro-batch never exist all at once:
  `both_sides` gives student and teacher at the labelled positions, `Side.likelihoods` the likelihoods of their labels,
  and `in_chunks` any other function of logits. `pair_layers` pairs layers of both. `chosen_tokens` gives a teacher's
  log-probabilities of tokens that the student chose
- `chunked_loss` is a token loss with the student's head as a plain function, for training loops without kdtool
- Evaluators, which report what they compute, get logits from `exact_logits` by an `exact_head`. Losses and recorded
  signals get `unrounded_logits`, which cost nothing more where the device returns float32
- `Sampler` and `choose` draw the next tokens of texts, each by its own generator; `isolated_rng` isolates runs in one
  process
- `score_texts` and `score_continuations` compute log-likelihoods by a language model, `windows` cuts a text beyond its
  context; `LogitsRuntime` opens a teacher that only has logits
- A cache defines what to keep of a signal (`Recording`): `record_rows` writes shards that are complete or absent after
  a kill, `RecordedRows` finds rows by key and verifies them, `recording_estimates` predicts memory and disk
- `self_check` compares a wrapped model with itself before training, `require_same_logits` a rewritten one with the
  original; `widen`, `release_mapping` and `give_back_memory` keep memory low where weights are converted
- `complete_folder` and `content_hash` keep large files in the user's cache; `pick_device` and `compute_dtype` choose
  device and precision; `student_estimates`, `forward_bytes` and `itemsize` predict memory and disk for `kdtool check`

torch is imported when it is used: importing this package is cheap. The trainer and the other components are in its
sub-packages.
"""

from __future__ import annotations

from kdtool_torch.batch import (
    NO_LABEL,
    WeightMeans,
    batch_rows,
    collate,
    compute_on_host,
    copy_to_host,
    document_bounds,
    is_labelled,
    label_index,
    loss_labels,
    loss_mask,
    map_tensors,
    move,
    original_of,
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
    max_over_ranks,
    named_device,
    pick_device,
    product_speed,
    sum_over_ranks,
)
from kdtool_torch.documents import Block, Documents
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
    eval_mode,
    give_back_memory,
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
    exact_head,
    exact_logits,
    in_chunks,
    log_likelihood,
    log_probabilities,
    logits_product,
    product_in_float32,
    returns_float32,
    scale_and_cap,
    unrounded_logits,
)
from kdtool_torch.phase_terms import PhaseTerms
from kdtool_torch.recording import Recording, record_rows
from kdtool_torch.sampling import Sampler, choose, isolated_rng, seed_generators
from kdtool_torch.scoring import LogitsRuntime, Window, score_continuations, score_texts, windows
from kdtool_torch.shards import RecordedRows, load_manifests

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
