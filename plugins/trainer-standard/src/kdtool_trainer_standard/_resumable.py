"""Resume a phase after its process was killed: `transformers.Trainer` with checkpoints that are complete or absent.

The base of `TrainingLoop`. The parent saves and restores its own state; this class overrides how checkpoints reach the disk,
and which of them are refused. `_save`, `_save_checkpoint`, `_save_optimizer_and_scheduler`, `_load_from_checkpoint`,
`_load_optimizer_and_scheduler`, `_load_scaler`, `_load_rng_state` and `_get_output_dir` are private names: the minor version
of transformers is pinned, and tests kill the process while it saves. The parent's state files are pickles, which it opens
with `weights_only=True`: tests offer it others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import torch
import torch.distributed as dist
import transformers
from kdtool_torch import write_safetensors
from safetensors.torch import load_file
from torch import Tensor

from kdtool_trainer_standard import _checkpoints, _progress
from kdtool_trainer_standard._config import StandardTrainerConfig
from kdtool_trainer_standard._history import HISTORY
from kdtool_trainer_standard._machine import dtype_name
from kdtool_trainer_standard._module import DistillationModule
from kdtool_trainer_standard._on_policy import OnPolicySampler
from kdtool_trainer_standard._progress import Progress
from kdtool_trainer_standard._sharding import Sharding, divided_like, divided_moments, whole, whole_moments
from kdtool_trainer_standard._validation import Validator, problem_of_best

__all__ = ["ResumableTrainer", "changing", "find_resume_point", "restore"]

_STUDENT, _LOSS_MODULES = "student.safetensors", "loss_modules.safetensors"
_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"


class ResumableTrainer(transformers.Trainer):  # type: ignore[misc]
    """Writes a phase's checkpoints and resumes from one; `parent` holds the other arguments of `transformers.Trainer`."""

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        module: DistillationModule,
        args: transformers.TrainingArguments,
        sampler: OnPolicySampler | None,
        validator: Validator | None,
        **parent: Any,
    ) -> None:
        sharded = config.sharding == "full" and run.world > 1
        self.sharding = Sharding(module, args.device) if sharded else None
        module.is_distributed_loading_by_transformers = sharded
        super().__init__(model=module, args=args, **parent)
        self.config, self.run, self.phase, self.module = config, run, phase, module
        self.sampler, self.validator = sampler, validator
        self.progress = Progress(
            world=run.world,
            dtype=dtype_name(module.sizes.dtype),
            compiled=module.chunk_loss.is_compiled,
            on_policy=None if sampler is None else sampler.counts,
        )

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.phase.checkpoints / _checkpoints.WRITING)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        root = self.phase.checkpoints
        if self.run.rank == 0:
            _checkpoints.start_writing(root)
        self._wait_for_all()
        with _checkpoints.explain_full_disk(root):
            super()._save_checkpoint(model, trial)
        self._wait_for_all()
        if self.run.rank == 0:
            written = root / _checkpoints.WRITING / f"checkpoint-{self.state.global_step}"
            self._refuse_odd_states()
            _progress.write(written, self.progress)
            shutil.copyfile(root / HISTORY, written / HISTORY)
            sealed = _checkpoints.commit(written, root)
            _checkpoints.rotate(root, self.config.keep_checkpoints)
            if self.validator is not None:
                self.validator.forget(_checkpoints.all_of(root))
            self.run.hook.kdtool_checkpoint(self.run, sealed, self.state.global_step)
        self._wait_for_all()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self._get_output_dir(None))
        leads = self.run.rank == 0
        for part, name in self._parts():
            learned = {key: whole(tensor, keep=leads).contiguous() for key, tensor in changing(part).items()}
            if leads:
                folder.mkdir(parents=True, exist_ok=True)
                write_safetensors(learned, folder / name)

    def _parts(self) -> list[tuple[torch.nn.Module, str]]:
        """Return the modules that learn, each with its file in a checkpoint."""
        losses = self.module.loss_modules
        return [(self.module.student, _STUDENT), *([(losses, _LOSS_MODULES)] if losses else [])]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        leads = self.run.rank == 0
        moments = whole_moments(self.optimizer.state_dict(), keep=leads)
        if leads:  # the same files as without sharding: each can resume from the other's
            torch.save(moments, Path(output_dir) / _OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        for part, name in self._parts():
            restore(part, load_file(folder / name), folder)
        self.progress = replace(_progress.read(folder), compiled=self.progress.compiled)
        if self.validator is not None and self.progress.best is not None:
            self.validator.restore(self.progress.best)
        if self.sampler is not None:
            self.sampler.counts.update(self.progress.on_policy or {})
            self.progress.on_policy = self.sampler.counts

    def _refuse_odd_states(self) -> None:
        for name, state in self.progress.states.items():
            try:
                json.dumps(state, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise kdtool.PluginError(
                    f"{self.run.hook.owner(name) or name} keeps state in kdtool_balance that JSON cannot hold: {error}; "
                    "expected text, finite numbers, booleans, None, lists, and mappings with text as keys"
                ) from error

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _checkpoints.refuse_pickles(checkpoint):
            if self.sharding is None or checkpoint is None:
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            moments, schedule = (
                torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
                for name in (_OPTIMIZER, _SCHEDULER)
            )
            self.optimizer.load_state_dict(divided_moments(moments, self.optimizer))
            self.lr_scheduler.load_state_dict(schedule)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _checkpoints.refuse_pickles(checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _checkpoints.refuse_pickles(checkpoint):
            super()._load_rng_state(checkpoint)

    def _wait_for_all(self) -> None:
        if self.run.world > 1:
            dist.barrier()


def find_resume_point(
    run: kdtool.RunInfo, phase: kdtool.Phase, dtype: torch.dtype
) -> tuple[Path | None, Progress | None]:
    """Return the checkpoint to resume the phase from, and its progress; None and None at the beginning.

    Call it on every rank; all get rank 0's answer.

    Raises:
        UsageError: the phase was started with another number of processes, or in another precision.
    """
    newest = _checkpoints.latest_valid(phase.checkpoints, run.say, problem_of_best) if run.rank == 0 else None
    if run.world > 1:
        shared: list[Path | None] = [newest]
        dist.broadcast_object_list(shared, 0)
        newest = shared[0]
    if newest is None:
        return None, None
    progress, name = _progress.read(newest), dtype_name(dtype)
    if progress.world != run.world:
        raise kdtool.UsageError(
            f"phase {phase.name!r} was started with {progress.world} processes and cannot resume with {run.world}: a step "
            f"would consist of other rows. Start {progress.world} processes, or delete {phase.checkpoints}"
        )
    if progress.dtype != name:
        raise kdtool.UsageError(
            f"phase {phase.name!r} was started in {progress.dtype} and cannot resume in {name}, the `dtype: auto` of this "
            f"machine. Resume on a machine like the first, or delete {phase.checkpoints}"
        )
    return newest, progress


def changing(student: torch.nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a phase changes, by name: parameters that learn, and buffers, but not frozen weights."""
    tensors = {name: parameter.data for name, parameter in student.named_parameters() if parameter.requires_grad}
    for prefix, module in student.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                tensors[f"{prefix}.{name}".removeprefix(".")] = buffer
    return tensors


def restore(student: torch.nn.Module, stored: Mapping[str, Tensor], folder: Path) -> None:
    """Restore the tensors that `changing` returned; `folder` is the checkpoint that holds them."""
    here = changing(student)
    if here.keys() != stored.keys():
        some = ", ".join(sorted(here.keys() ^ stored.keys())[:3])
        raise kdtool.StorageError(
            f"the checkpoint {folder} belongs to another student: only one has {some}; delete the folder and run again"
        )
    for name, tensor in stored.items():
        here[name].copy_(divided_like(tensor, here[name]))
