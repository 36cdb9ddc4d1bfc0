"""When checkpoints are written, and what they hold; a background thread writes, hashes and commits them.

A checkpoint's folder contains the tensors of each rank (`_state`), `progress.json`, `history.jsonl`, and the best student if
a validation is watched. None of its files is a pickle. Random generators are not in it: each step seeds them. Called by the
loop on every rank.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import kdtool
import torch
import torch.distributed as dist
from kdtool_torch import max_over_ranks
from torch import Tensor, nn

from kdtool_trainer_standard import _checkpoints, _progress
from kdtool_trainer_standard._config import StandardTrainerConfig, seconds_between
from kdtool_trainer_standard._distributed import PATIENCE
from kdtool_trainer_standard._history import HISTORY
from kdtool_trainer_standard._machine import dtype_name
from kdtool_trainer_standard._optimizer import optimizer_numbers, optimizer_tensors, restore_optimizer
from kdtool_trainer_standard._progress import Progress
from kdtool_trainer_standard._state import load_state, own_state, stored_tensors
from kdtool_trainer_standard._validation import Validator

__all__ = ["Checkpointing", "changing", "find_resume_point", "restore"]


class Checkpointing:
    """Writes a phase's checkpoints and reads them. All ranks call the same methods after the same steps."""

    def __init__(
        self,
        config: StandardTrainerConfig,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        validator: Validator | None,
        device: torch.device,
    ) -> None:
        self._config, self._run, self._root, self._device = config, run, phase.checkpoints, device
        self._module, self._optimizer, self._scaler, self._validator = module, optimizer, scaler, validator
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if run.world > 1 else None
        """Threads of all ranks meet here, apart from the collectives of training."""
        self._thread = ThreadPoolExecutor(1, "kdtool checkpoint")
        self._writing: Future[Path] | None = None
        self._last = perf_counter()

    def restart_clock(self) -> None:
        """Count the time to the next checkpoint from now."""
        self._last = perf_counter()

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is written after this step, by this rank's clock; rank 0's counts."""
        every = self._config.checkpoint_every
        if isinstance(every, int):
            return step % every == 0
        return perf_counter() - self._last >= seconds_between(every)

    def save(self, step: int, progress: Progress) -> None:
        """Have a thread write the state of this step, after waiting for a checkpoint that is still written.

        On a GPU training continues meanwhile, from a copy in main memory. On a CPU it waits: a copy would take 12 bytes per
        weight, and there is no device that would be idle.
        """
        self.finish()
        self._wait_for_all()  # rank 0 has committed the last one
        leads = self._run.rank == 0
        folder = self._root / _checkpoints.WRITING / f"checkpoint-{step}"
        with _checkpoints.explain_full_disk(self._root):
            if leads:
                _refuse_odd_states(self._run, progress)
                progress.scaler = self._scaler.state_dict()
                progress.optimizer = optimizer_numbers(self._optimizer, self._module)
                _checkpoints.start_writing(self._root)
                folder.mkdir()
                _progress.write(folder, progress)
                shutil.copyfile(self._root / HISTORY, folder / HISTORY)
                if self._validator is not None:
                    self._validator.add_best(folder)
            self._wait_for_all()  # the folder is there
            tensors = {**changing(self._module), **optimizer_tensors(self._optimizer, self._module)}
            state = own_state(tensors, self._run.rank, copy=self._device.type != "cpu")

        def write() -> Path:
            with _checkpoints.explain_full_disk(self._root):
                state.write(folder)
                if self._group is not None:
                    dist.barrier(self._group)
                return _checkpoints.commit(folder, self._root) if leads else folder

        self._writing = self._thread.submit(write)
        if self._device.type == "cpu":
            self.finish()
        self.restart_clock()

    def poll(self) -> None:
        """Finish a checkpoint whose thread is done; do not wait for another."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until no checkpoint is being written; then delete old ones, and report the new one to trackers.

        Raises:
            StorageError: it could not be written.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        sealed = writing.result()
        if self._run.rank == 0:
            _checkpoints.rotate(self._root, self._config.keep_checkpoints)
            self._run.hook.kdtool_checkpoint(self._run, sealed, _checkpoints.step_of(sealed))

    def close(self) -> None:
        """Wait for a checkpoint that is being written, also if the phase failed; then end the thread."""
        self._thread.shutdown()
        if self._group is not None:
            dist.destroy_process_group(self._group)

    def load(self, folder: Path) -> Progress:
        """Restore tensors and numbers from a checkpoint, and return its progress.

        Raises:
            StorageError: the checkpoint is of another student.
        """
        progress, stored = _progress.read(folder), stored_tensors(folder)
        tensors = changing(self._module)
        _check_names({name for name in stored if not name.startswith("optimizer.")}, set(tensors), folder)
        tensors |= restore_optimizer(self._optimizer, self._module, progress.optimizer or {}, stored)
        load_state(folder, tensors)
        if progress.scaler:
            self._scaler.load_state_dict(dict(progress.scaler))
        return progress

    def _wait_for_all(self) -> None:
        max_over_ranks([0.0], self._run.world)


def find_resume_point(run: kdtool.RunInfo, phase: kdtool.Phase, dtype: torch.dtype, elastic: bool) -> Path | None:
    """Return the checkpoint to resume the phase from; None at the beginning.

    Call it on every rank; all get rank 0's answer. `elastic` allows another number of processes.

    Raises:
        UsageError: the phase was started with another number of processes, or in another precision.
    """
    newest = next(reversed(_checkpoints.all_of(phase.checkpoints)), None) if run.rank == 0 else None
    if run.world > 1:
        shared: list[Path | None] = [newest]
        dist.broadcast_object_list(shared, 0)
        newest = shared[0]
    if newest is None:
        return None
    progress, name = _progress.read(newest), dtype_name(dtype)
    if progress.world != run.world and not elastic:
        raise kdtool.UsageError(
            f"phase {phase.name!r} was started with {progress.world} processes and cannot resume with {run.world}: a step "
            f"would consist of other rows. Start {progress.world} processes, or delete {phase.checkpoints}; with the "
            "trainer's rows_per_step, a phase resumes with any number"
        )
    if progress.dtype != name:
        raise kdtool.UsageError(
            f"phase {phase.name!r} was started in {progress.dtype} and cannot resume in {name}, the `dtype: auto` of this "
            f"machine. Resume on a machine like the first, or delete {phase.checkpoints}"
        )
    return newest


def changing(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that a phase changes, by name: parameters that learn, and buffers, but not frozen weights."""
    tensors = {name: parameter.data for name, parameter in module.named_parameters() if parameter.requires_grad}
    for prefix, part in module.named_modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                tensors[f"{prefix}.{name}".removeprefix(".")] = buffer
    return tensors


def restore(module: nn.Module, stored: Mapping[str, Tensor], folder: Path) -> None:
    """Restore the tensors that `changing` returned, none of them divided; `folder` is named in errors."""
    tensors = changing(module)
    _check_names(set(stored), set(tensors), folder)
    for name, tensor in stored.items():
        tensors[name].copy_(tensor)


def _check_names(stored: set[str], here: set[str], folder: Path) -> None:
    if stored != here:
        some = ", ".join(sorted(stored ^ here)[:3])
        raise kdtool.StorageError(
            f"the checkpoint {folder} belongs to another student: only one has {some}; delete the folder and run again"
        )


def _refuse_odd_states(run: kdtool.RunInfo, progress: Progress) -> None:
    for name, state in progress.states.items():
        try:
            json.dumps(state, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise kdtool.PluginError(
                f"{run.hook.owner(name) or name} keeps state in kdtool_balance that JSON cannot hold: {error}; "
                "expected text, finite numbers, booleans, None, lists, and mappings with text as keys"
            ) from error
