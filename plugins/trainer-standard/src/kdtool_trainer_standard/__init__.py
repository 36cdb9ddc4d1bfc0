"""The standard trainer: one phase of distillation on `transformers.Trainer`, with chunked losses.

`StandardTrainer` is the component; recipes name it `standard`. Nothing heavy is imported before training starts.

- `_train` set-up, self-tests, the run, the end: what `kdtool_train` does
- `_loop` our subclass of `transformers.Trainer`: steps and reports
- `_resumable` its base: checkpoints written, and gone on from
- `_progress` what is known of a phase half done
- `_schedule` the learning rate's course
- `_module` student and trainable loss modules as one `torch.nn.Module` that returns the loss
- `_head` the chunked head: losses on rows of logits that never exist all at once
- `_chunk` the function called on each chunk, eager or compiled
- `_compiling` whether it is compiled
- `_projection` final states to logits, and what a `Head` says about it
- `_terms` the phase's losses bound to callables, teachers and weights
- `_loss_mask` which positions token losses see: rejected text is there to be avoided
- `_mixture` several teachers as one, where a term learns from a mixture
- `_sharding` weights, gradients and moments divided among ranks
- `_frozen` weights that do not learn, in the dtype that they are computed in
- `_norms` the size of each term's gradient
- `_selftest` what is checked before the first step
- `_nonfinite` what a value that is not finite is attributed to
- `_teacher_signals` the signals of all teachers for a micro-batch
- `_checkpoints` folders that are whole or absent
- `_history` the file of logged steps
- `_order` the shuffled order of rows
- `_on_policy` micro-batches that the student generates
- `_validation` evaluators asked while the student learns, and when it stops
- `_fsdp_sync` backward passes within forward, under FSDP
- `_estimate` what a phase takes, before it is made
- `_machine` precision, memory allocator, chunk sizes
"""

from __future__ import annotations

from kdtool_trainer_standard._config import OnPolicy, Validation
from kdtool_trainer_standard._trainer import StandardTrainer

__all__ = ["OnPolicy", "StandardTrainer", "Validation"]
