"""Training in a process of its own, for tests that kill it or that need two.

The processes are forked from a server that has imported everything once (spawned where there is no forkserver).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kdtool
import torch
from kdtool_testing import make_run
from safetensors.torch import save_file, save_model
from torch.optim.optimizer import register_optimizer_step_pre_hook
from trainer_models import (
    MIXTURE,
    ByEntropy,
    One,
    TinyModel,
    TinyTeacher,
    Turns,
    first_gradients,
    lopsided_rows,
    make_model,
    make_phase,
    make_rows,
    make_trainer,
    mixture,
    train,
    unmeasured,
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)


def arm(when: str) -> None:
    """Arrange to be killed."""
    from kdtool._store import files
    from kdtool_torch.trainer.loop import TrainingLoop

    what, number = when.split()
    if what == "step":
        ended = TrainingLoop.end_step

        def end_step(self: Any, step: int) -> None:
            ended(self, step)
            if step == int(number):
                self.checkpoints.finish()
                die()

        TrainingLoop.end_step = end_step  # type: ignore[method-assign]
    else:
        synced = files.sync

        def sync(path: Path) -> None:
            synced(path)
            if path.parent.name == f"checkpoint-{number}" and path.name.startswith("shard"):
                die()

        files.sync = sync


class Dropped(torch.nn.Dropout):
    """Dropout of half of the states, which remembers where its last call left something."""

    def __init__(self) -> None:
        super().__init__(0.5)
        self.last: list[bool] = []

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        found = super().forward(states)
        self.last = (found != 0).flatten()[:64].tolist()
        return found


class Recorded(TinyModel):
    """Remembers the batches that it learned from."""

    def __init__(self, model: TinyModel) -> None:
        super().__init__(model.model)
        self.batches: list[kdtool.Batch] = []

    def backbone(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.ModelOutputs:
        if self.model.training and torch.is_grad_enabled():
            self.batches.append(batch)
        return super().backbone(batch, want)


def train_recorded(
    folder: Path, settings: dict[str, Any], components: dict[str, Any], rank: int = 0, world: int = 1, port: int = 0
) -> None:
    """Train for some steps that change nothing, as one of `world` processes, and write what was learned from, and how.

    Each rank writes the batches of all steps; rank 0 the gradients of each step, too.
    """
    student = Recorded(make_model(1))
    found: dict[str, torch.Tensor] = {}
    steps = 0

    def catch(*_: Any) -> None:
        nonlocal steps
        steps += 1
        named = student.model.named_parameters()
        found.update({f"{steps} {name}": p.grad.clone() for name, p in named if p.grad is not None})

    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "gradient_clip": 0.0, "log_every": 1}
    with as_rank(rank, world, port) as run, unmeasured():
        handle = register_optimizer_step_pre_hook(catch)
        try:
            train(folder, student, rows=make_rows(12), run=run, more=components, **{**still, **settings})
        finally:
            handle.remove()
    batches = student.batches[-settings["steps"] * settings["accumulation"] :]
    torch.save([vars(batch) for batch in batches], folder / f"batches-{rank}.pt")
    if rank == 0:
        save_file(found, str(folder / "gradients.safetensors"))


def train_weighed(
    folder: Path, sharpness: float, steps: int, accumulation: int, rank: int = 0, world: int = 1, port: int = 0
) -> None:
    """Train on tokens that weigh as a teacher's entropy, whose logits are multiplied by `sharpness`, four rows a step.

    Rank 0 writes the first step's gradients.
    """
    terms = [kdtool.LossTerm("losses.one", "one", 1.0), MIXTURE[0]]  # weightings see the first one that has a teacher
    components = {**mixture(), "losses.one": One(One.Config()), "weightings.own": ByEntropy(ByEntropy.Config())}
    student = make_model(1)
    with as_rank(rank, world, port) as settings, first_gradients(student.model) as found:
        run = make_run(folder / "run", components, **settings)
        phase = make_phase(folder, terms, {"teacher": TinyTeacher(make_model(99, scale=sharpness))}, steps)
        batch = {"batch": 4 // accumulation // world, "accumulation": accumulation}
        make_trainer(log_every=1, gradient_clip=0.0, loss_chunk_size=7, **batch).kdtool_train(run, phase, student)
    if rank == 0:
        save_file(found, str(folder / "gradients.safetensors"))


class Culprit(One):
    """Returns no numbers in the second step of rank 1."""

    def kdtool_token_loss(self, chunk: kdtool.TokenChunk) -> torch.Tensor:
        bad = os.environ["RANK"] == "1" and int(chunk.step) == 2
        return super().kdtool_token_loss(chunk) * (float("nan") if bad else 1.0)


def train_with_a_culprit(folder: Path, sharding: str, rank: int = 0, world: int = 1, port: int = 0) -> None:
    """Train with a loss that fails on rank 1; each rank writes the error that it raises."""
    term = kdtool.LossTerm("losses.one", "one", 1.0)
    with as_rank(rank, world, port) as settings:
        run = make_run(folder / f"run-{rank}", {"losses.one": Culprit(Culprit.Config())}, **settings)
        trainer = make_trainer(log_every=1, batch=2, sharding=sharding)
        try:
            trainer.kdtool_train(run, make_phase(folder, [term], {}, 4), make_model(1))
        except Exception as error:
            (folder / f"error-{rank}").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
            raise


def train_until(folder: Path, when: str | None, **settings: Any) -> None:
    """Train with these settings; the final weights are written to `folder`/final.safetensors.

    `when` is "step N" or "saving N": the process kills itself after N steps, or in the midst of writing checkpoint N.
    """
    torch.set_num_threads(1)
    if when:
        arm(when)
    student = make_model(1, dropout=0.2)
    trained = train_small(folder, student, **settings)
    save_model(student.model, str(folder / "final.safetensors"))
    notes = [note for note in trained.notes if "other processes" not in note]  # how busy the machine was then
    (folder / "tokens.txt").write_text(f"{trained.tokens} {notes}", encoding="utf-8")


def train_small(folder: Path, student: Any, **more: Any) -> kdtool.Trained:
    """Train for 14 steps with a checkpoint at every third."""
    settings = {"accumulation": 2, "batch": 2, "checkpoint_every": 3, "log_every": 1, "run": _QUIET, **more}
    return train(folder, student, steps=14, **settings)


def train_as_rank(
    folder: Path, tied: bool, twice: bool, sharding: str, rank: int = 0, world: int = 1, port: int = 0
) -> None:
    """Train as one of `world` processes, with two passes a step if `twice`.

    Rank 0 writes the first step's gradients, the student's weights at the end, and the number of tokens.
    """
    student = make_model(1, tied=tied)
    if twice:
        student.model.dropout = Turns()
    with as_rank(rank, world, port) as run, first_gradients(student.model) as gradients:
        trained = train(
            folder, student, steps=2, batch=2, accumulation=2 // world, checkpoint_every=1, log_every=1,
            gradient_clip=0.0, rows=lopsided_rows(), twice=twice, run=run, sharding=sharding,
        )  # fmt: skip
    if rank == 0:
        save_file(gradients, str(folder / "gradients.safetensors"))
        save_model(student.model, str(folder / "final.safetensors"))
        (folder / "tokens.txt").write_text(str(trained.tokens), encoding="utf-8")


def train_until_as_rank(
    folder: Path, when: str | None, sharding: str, elastic: bool, rank: int = 0, world: int = 1, port: int = 0
) -> None:
    """As `train_until`, as one of `world` processes; rank 0 kills itself, and the test the others, as torchrun does.

    `elastic`: eight rows a step with any number of processes, two on each machine, and without dropout. Rank 0 writes the
    gradients of the first step that is made here, too.
    """
    if when and rank == 0:
        arm(when)
    student = make_model(1, dropout=0.0 if elastic else 0.2)
    shared: dict[str, Any] = {"rows_per_step": 8} if elastic else {}
    if elastic:
        os.environ["LOCAL_WORLD_SIZE"] = "2"
    with as_rank(rank, world, port) as run, first_gradients(student.model) as gradients:
        options: dict[str, Any] = {"steps": 14, "batch": 2, "checkpoint_every": 3, "log_every": 1, **shared}
        train(folder, student, run=run, sharding=sharding, **options)
    if rank == 0:
        save_file(gradients, str(folder / "gradients.safetensors"))
        save_model(student.model, str(folder / "final.safetensors"))


def train_noting(folder: Path, rank: int = 0, world: int = 1, port: int = 0) -> None:
    """Train a phase without validation, as one of `world` processes, and then one with it.

    Each rank writes, for each phase, what it dropped of its last step's states and the seconds that it waits for others.
    """
    from torch.distributed.distributed_c10d import _get_default_group

    with as_rank(rank, world, port) as run:
        phases: dict[str, dict[str, Any]] = {"plain": {}, "validated": {"validation": {"evaluators": ("wave",)}}}
        for name, settings in phases.items():
            student = make_model(1, dropout=0.5)
            dropped = Dropped()
            student.model.dropout = dropped
            train(folder / name, student, steps=2, batch=2, run=run, **settings)
            waits = _get_default_group()._get_backend(torch.device("cpu")).options._timeout.total_seconds()
            (folder / f"{name}-{rank}.json").write_text(json.dumps([dropped.last, waits]), encoding="utf-8")


@contextmanager
def as_rank(rank: int, world: int, port: int) -> Iterator[dict[str, Any]]:
    """Be one of `world` processes on one thread each; yield what the run says of it."""
    torch.set_num_threads(1)
    if world > 1:
        settings = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        os.environ.update({name: str(value) for name, value in settings.items()})
    yield {**_QUIET, "rank": rank, "world": world}
    if world > 1:
        torch.distributed.destroy_process_group()


def start(task: Callable[..., None], *arguments: Any) -> Any:
    """Start a task in a process of its own."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["trainer_process", "kdtool_torch.trainer.train"])
    process = context.Process(target=task, args=arguments)  # type: ignore[attr-defined]
    process.start()
    return process


def start_ranks(task: Callable[..., None], world: int, *arguments: Any) -> list[int]:
    """Run a task as `world` processes and return how they ended; where one fails, the others are ended, as by torchrun."""
    port = free_port()
    processes = [start(task, *arguments, rank, world, port) for rank in range(world)]
    for process in processes:
        process.join(120)
        if process.exitcode != 0:
            for other in processes:
                other.kill()
    for process in processes:
        process.join(20)
    return [process.exitcode for process in processes]


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


_QUIET: dict[str, Any] = {"say": lambda _: None}
