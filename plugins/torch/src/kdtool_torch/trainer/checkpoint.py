"""Checkpoints: when they are written, what they hold, and how tensors of any number of ranks get in and out.

A checkpoint's folder contains the tensors of each rank, `progress.json`, `history.jsonl`, and the best student if a
validation is watched. None of its files is a pickle. Random generators are not in it: each step seeds them. The loop
calls on every rank; a background thread writes, hashes and commits. A checkpoint is written in `.writing/`, renamed
into place, and committed (`kdtool.commit`), so it is whole or absent whenever process or machine stop. Before a phase
resumes, the engine discards all that is not as it was committed, byte by byte.

Each rank writes what it holds of the divided tensors, and rank 0 also those that all have, into one safetensors file in
the layout of `torch.distributed.checkpoint` for Hugging Face, whose `HuggingFaceStorageReader` reads the folder. We
write the files ourselves because its writer meets all ranks several times, and so cannot run in a background thread.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import kdtool
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, Replicate

from kdtool_torch.device import max_over_ranks
from kdtool_torch.files import give_usual_mode
from kdtool_torch.machine import dtype_name
from kdtool_torch.model import changing
from kdtool_torch.trainer.optimizer import optimizer_numbers, optimizer_tensors, restore_optimizer
from kdtool_torch.trainer.parallel import PATIENCE
from kdtool_torch.trainer.progress import HISTORY, Loop, Progress, read_progress, write_progress
from kdtool_torch.trainer.settings import StandardTrainerConfig, seconds_between
from kdtool_torch.trainer.validation import Validator

KEPT = 2
"""Number of the newest checkpoints that are kept while a phase runs."""


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
        every = config.checkpoint_every
        self._seconds = None if isinstance(every, int) else seconds_between(every)

    def after(self, loop: Loop) -> None:
        """Write a checkpoint if one is due, except after the last step; or if a stop signal came, and then stop.

        Clocks of ranks differ: rank 0 decides. A signal may have reached only some ranks, and all stop at the same step.
        """
        step, stop, is_last = loop.step, loop.stop, loop.over or loop.step == loop.phase.steps
        is_due = self._run.rank == 0 and not is_last and self.is_due(step)
        number, due = map(int, max_over_ranks([stop.number, is_due], self._run.world))
        if due or number:
            self.save(step, loop.progress)
        if number:
            self.finish()
            max_over_ranks([0.0], self._run.world)  # rank 0 has committed it
            stop.number = number
            stop.deliver()
        self.poll()

    def restart_clock(self) -> None:
        """Count the time to the next checkpoint from now."""
        self._last = perf_counter()

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is written after this step, by this rank's clock; rank 0's counts."""
        if self._seconds is None:
            return step % int(self._config.checkpoint_every) == 0
        return perf_counter() - self._last >= self._seconds

    def save(self, step: int, progress: Progress) -> None:
        """Have a thread write the state of this step, after waiting for a checkpoint that is still written.

        On a GPU training continues meanwhile, from a copy in main memory. On a CPU it waits: a copy would take 12 bytes per
        weight, and there is no device that would be idle.
        """
        self.finish()
        self._wait_for_all()  # rank 0 has committed the last one
        leads = self._run.rank == 0
        folder = self._root / WRITING / f"checkpoint-{step}"
        with explain_full_disk(self._root):
            if leads:
                _refuse_odd_states(self._run, progress)
                progress.scaler = self._scaler.state_dict()
                progress.optimizer = optimizer_numbers(self._optimizer, self._module)
                start_writing(self._root)
                folder.mkdir()
                write_progress(folder, progress)
                shutil.copyfile(self._root / HISTORY, folder / HISTORY)
                if self._validator is not None:
                    self._validator.add_best(folder)
            self._wait_for_all()  # the folder is there
            tensors = {**changing(self._module), **optimizer_tensors(self._optimizer, self._module)}
            state = own_state(tensors, self._run.rank, copy=self._device.type != "cpu")

        def write() -> Path:
            with explain_full_disk(self._root):
                state.write(folder)
                if self._group is not None:
                    dist.barrier(self._group)
                return commit_checkpoint(folder, self._root) if leads else folder

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
            rotate_checkpoints(self._root, KEPT)
            self._run.hook.kdtool_checkpoint(self._run, sealed, checkpoint_step(sealed))

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
        progress, stored = read_progress(folder), stored_tensors(folder)
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
    newest = next(reversed(list_checkpoints(phase.checkpoints)), None) if run.rank == 0 else None
    if run.world > 1:
        shared: list[Path | None] = [newest]
        dist.broadcast_object_list(shared, 0)
        newest = shared[0]
    if newest is None:
        return None
    progress, name = read_progress(newest), dtype_name(dtype)
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


def restore_weights(module: nn.Module, stored: Mapping[str, Tensor], folder: Path) -> None:
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
    for name, state in progress.terms.balances.items():
        try:
            json.dumps(state, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise kdtool.PluginError(
                f"{run.hook.owner(name) or name} keeps state in kdtool_balance that JSON cannot hold: {error}; "
                "expected text, finite numbers, booleans, None, lists, and mappings with text as keys"
            ) from error


WRITING = ".writing"
_PREFIX = "checkpoint-"


def start_writing(root: Path) -> Path:
    """Return the empty folder below `root` in which a checkpoint is written."""
    folder = root / WRITING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit_checkpoint(written: Path, root: Path) -> Path:
    """Make a written folder a checkpoint of `root`, at once and for good; return its path."""
    target = root / written.name
    if target.exists():  # a broken one of the same step
        shutil.rmtree(target)
    written.rename(target)
    kdtool.commit(root, target)
    return target


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoints below `root`, the oldest first; whole ones, once the engine has discarded the others."""
    folders = [path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(folders, key=checkpoint_step)


def checkpoint_step(folder: Path) -> int:
    """Return the step at which a checkpoint was taken."""
    return int(folder.name.removeprefix(_PREFIX))


def rotate_checkpoints(root: Path, keep: int) -> None:
    """Remove all checkpoints except the newest `keep`."""
    for folder in list_checkpoints(root)[:-keep]:
        kdtool.commit(root, gone=[folder])
        shutil.rmtree(folder)


@contextmanager
def explain_full_disk(root: Path) -> Iterator[None]:
    """Explain a file that could not be written, and make room by removing the part of it that was."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(root / WRITING, ignore_errors=True)
        raise kdtool.StorageError(
            f"cannot write a checkpoint below {root}: {error}. The one before it is kept; make room, then run the same "
            "command again"
        ) from error


@dataclass(frozen=True)
class RankState:
    """The part of one rank, in main memory: tensors, each with its position in the whole tensor."""

    rank: int
    tensors: Mapping[str, Tensor]
    offsets: Mapping[str, tuple[int, ...]]

    def write(self, folder: Path) -> None:
        """Write the file of this rank into `folder`, which exists; nothing if the rank holds nothing that it writes."""
        if not self.tensors:
            return
        positions = {name: {"saved_offsets": list(offset)} for name, offset in self.offsets.items()}
        file = folder / f"shard-{self.rank + 1:05}-model-00001-of-00001.safetensors"
        save_file(dict(self.tensors), file, metadata={"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(positions)})
        give_usual_mode(file)


def own_state(state: Mapping[str, Tensor], rank: int, *, copy: bool) -> RankState:
    """Return what this rank writes of `state`.

    Args:
        state: the same names on every rank; divided tensors are `DTensor`, all others are equal on all ranks.
        rank: this process; 0 writes the tensors that are not divided.
        copy: so that training can continue while it is written. Without it, what is in main memory is not copied.
    """
    tensors, offsets = {}, {}
    for name, tensor in state.items():
        if not isinstance(tensor, DTensor):
            parts = [(tensor, (0,) * tensor.dim())] if rank == 0 else []
        else:
            parts = list(_own_parts(tensor))
        for part, offset in parts:
            tensors[name] = part.detach().to("cpu", copy=copy).contiguous()
            offsets[name] = offset
    return RankState(rank, tensors, offsets)


def load_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Read the folder's tensors into `state`, in place, however many ranks wrote them.

    Each rank reads what it holds by itself.

    Args:
        folder: what `RankState.write` of all ranks filled.
        state: tensors by name, divided or not, of the shapes that were written; names that the folder has in addition are
            left out.

    Raises:
        KeyError: the folder lacks a name of `state`.
        ValueError: a tensor in the folder has another shape.
    """
    stored = stored_tensors(folder)
    for name, tensor in state.items():
        size, _ = stored[name]
        if size != tensor.shape:
            raise ValueError(f"{name} has the shape {tuple(size)} in {folder}, and {tuple(tensor.shape)} here")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # on purpose: no rank waits for another
        load(dict(state), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


def stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return the whole shapes and dtypes of the tensors that all ranks wrote into a folder, by name."""
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (facts.size, facts.properties.dtype)
        for name, facts in stored.items()
        if isinstance(facts, TensorStorageMetadata)
    }


def _own_parts(tensor: DTensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield this rank's part and its position, unless it is empty or another rank has the same part and comes first."""
    mesh = tensor.device_mesh
    copies = zip(mesh.get_coordinate() or (), tensor.placements, strict=True)
    local = tensor.to_local()
    if local.numel() and all(index == 0 for index, placement in copies if isinstance(placement, Replicate)):
        (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]
        yield local, tuple(chunk.offsets)
