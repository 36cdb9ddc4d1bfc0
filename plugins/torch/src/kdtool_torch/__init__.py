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
- Losses in other loops: `chunked_loss` without kdtool, `kdtool_torch.objective.Objective` in your own trainer
- Text: `Sampler` draws tokens, `score_texts` computes log-likelihoods, `LogitsRuntime` opens a teacher that only has logits
- Recordings: `record_rows` writes a cache's signals, `RecordedRows` reads them
- Models: `self_check` before training, `require_same_logits` after rewriting, `isolated_rng` around both
- Machine and files: `pick_device`, `compute_dtype`, `complete_folder`, `content_hash`, and estimates for `kdtool check`

Importing this package is cheap: torch is imported when it is used. Components are in the sub-packages.
"""

from __future__ import annotations

from kdtool_torch.batch import NO_LABEL as NO_LABEL
from kdtool_torch.batch import Block as Block
from kdtool_torch.batch import Documents as Documents
from kdtool_torch.batch import batch_rows as batch_rows
from kdtool_torch.batch import collate as collate
from kdtool_torch.batch import compute_on_host as compute_on_host
from kdtool_torch.batch import copy_to_host as copy_to_host
from kdtool_torch.batch import is_labelled as is_labelled
from kdtool_torch.batch import label_index as label_index
from kdtool_torch.batch import loss_labels as loss_labels
from kdtool_torch.batch import loss_mask as loss_mask
from kdtool_torch.batch import move as move
from kdtool_torch.batch import select as select
from kdtool_torch.batch import select_at_labels as select_at_labels
from kdtool_torch.chunked import chunked_loss as chunked_loss
from kdtool_torch.device import DeviceName as DeviceName
from kdtool_torch.device import DtypeName as DtypeName
from kdtool_torch.device import compute_dtype as compute_dtype
from kdtool_torch.device import devices_here as devices_here
from kdtool_torch.device import free_gpu_bytes as free_gpu_bytes
from kdtool_torch.device import gpu_bytes as gpu_bytes
from kdtool_torch.device import has_bfloat16 as has_bfloat16
from kdtool_torch.device import has_flash as has_flash
from kdtool_torch.device import isolated_rng as isolated_rng
from kdtool_torch.device import max_over_ranks as max_over_ranks
from kdtool_torch.device import named_device as named_device
from kdtool_torch.device import pick_device as pick_device
from kdtool_torch.device import product_speed as product_speed
from kdtool_torch.device import sum_over_ranks as sum_over_ranks
from kdtool_torch.estimates import forward_bytes as forward_bytes
from kdtool_torch.estimates import itemsize as itemsize
from kdtool_torch.estimates import recording_estimates as recording_estimates
from kdtool_torch.estimates import store_as as store_as
from kdtool_torch.estimates import stored_bytes as stored_bytes
from kdtool_torch.estimates import student_estimates as student_estimates
from kdtool_torch.files import cache_folder as cache_folder
from kdtool_torch.files import complete_folder as complete_folder
from kdtool_torch.files import content_hash as content_hash
from kdtool_torch.files import give_usual_mode as give_usual_mode
from kdtool_torch.files import is_complete as is_complete
from kdtool_torch.files import write_cached as write_cached
from kdtool_torch.files import write_safetensors as write_safetensors
from kdtool_torch.model import PairedLayers as PairedLayers
from kdtool_torch.model import give_back_memory as give_back_memory
from kdtool_torch.model import layers_among as layers_among
from kdtool_torch.model import pair_layers as pair_layers
from kdtool_torch.model import release_mapping as release_mapping
from kdtool_torch.model import require_same_logits as require_same_logits
from kdtool_torch.model import self_check as self_check
from kdtool_torch.model import widen as widen
from kdtool_torch.numerics import LOWEST as LOWEST
from kdtool_torch.numerics import Side as Side
from kdtool_torch.numerics import at_least_float32 as at_least_float32
from kdtool_torch.numerics import both_sides as both_sides
from kdtool_torch.numerics import chosen_tokens as chosen_tokens
from kdtool_torch.numerics import eval_mode as eval_mode
from kdtool_torch.numerics import exact_head as exact_head
from kdtool_torch.numerics import exact_logits as exact_logits
from kdtool_torch.numerics import in_chunks as in_chunks
from kdtool_torch.numerics import log_likelihood as log_likelihood
from kdtool_torch.numerics import log_probabilities as log_probabilities
from kdtool_torch.numerics import not_finite as not_finite
from kdtool_torch.numerics import require_finite as require_finite
from kdtool_torch.numerics import unrounded_logits as unrounded_logits
from kdtool_torch.recording import Recording as Recording
from kdtool_torch.recording import record_rows as record_rows
from kdtool_torch.sampling import Sampler as Sampler
from kdtool_torch.sampling import choose as choose
from kdtool_torch.scoring import LogitsRuntime as LogitsRuntime
from kdtool_torch.scoring import say_context as say_context
from kdtool_torch.scoring import score_continuations as score_continuations
from kdtool_torch.scoring import score_texts as score_texts
from kdtool_torch.scoring import windows as windows
from kdtool_torch.shards import RecordedRows as RecordedRows
from kdtool_torch.shards import load_manifests as load_manifests
from kdtool_torch.weightings.tokens import WeightMeans as WeightMeans
