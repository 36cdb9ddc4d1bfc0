"""The standard trainer: one phase of distillation, with chunked losses.

`StandardTrainer` is the component; recipes name it `standard`. Nothing heavy is imported before training starts.

- `_train` `kdtool_train`: set-up, self-tests, the run, the end
- `_loop` the steps of a phase
- `_inputs` the next steps' rows and recorded signals, prepared in a thread
- `_optimizer` the recipe's optimizer or AdamW: parameter groups, the learning-rate schedule, the optimizer's state
- `_reports` figures of a step, and factors that balance its terms
- `_notes` notes on a finished phase
- `_checkpointing` when checkpoints are written, and what they hold
- `_state` tensors in checkpoints, written and read by any number of ranks
- `_generators` random generators in checkpoints
- `_progress` the rest of an unfinished phase's state
- `_distributed` the group of processes, and what they agree on
- `_module` student and trainable loss modules as one `torch.nn.Module` that returns the loss
- `_head` the chunked head: losses on rows of logits that never exist all at once
- `_chunk` the function called on each chunk, eager or compiled
- `_compiling` the decision to compile it
- `_projection` final states to logits, according to a `Head`
- `_sequence_head` the head with which sequence losses compute logits
- `_terms` the phase's losses bound to callables, teachers and weights
- `_mixture` several teachers as one, for terms that learn from a mixture
- `_stopping` Ctrl-C and stop signals, deferred until a step ends
- `_sharding` weights, gradients and moments divided among ranks
- `_frozen` frozen weights, in the dtype that they are computed in
- `_norms` the norm of each term's gradient
- `_overlap` overlap of the student's and the teacher's likeliest tokens, and the early verdict
- `_micro_batch` rows with everything that belongs to them, and parts of it
- `_selftest` checks before the first step
- `_step_stats` figures of a step, read once
- `_nonfinite` the origin of a value that is not finite
- `_teacher_signals` the signals of all teachers for a micro-batch
- `_checkpoints` folders that are complete or absent
- `_history` the file of logged steps
- `_order` the shuffled order of rows
- `_on_policy` steps whose text the student generates
- `_rollouts` the student's weights on a vLLM server, which samples these texts
- `_validation` evaluators during training, and early stopping
- `_estimate` memory, disk and time of a phase, predicted
- `_machine` precision, memory allocator, chunk sizes
"""

from __future__ import annotations

from kdtool_trainer_standard._config import OnPolicy, Rollouts, Validation
from kdtool_trainer_standard._trainer import StandardTrainer

__all__ = ["OnPolicy", "Rollouts", "StandardTrainer", "Validation"]
