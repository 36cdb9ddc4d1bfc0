"""On-policy text by a vLLM server: the student's weights reach it through a folder, every `every` steps.

The folder `current` is a link to the newest weights, so a server that is started again has those of the one before. A text
depends on its seed and on the weights that were handed over last: they are kept while a phase may resume from a checkpoint
that was written after them.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import kdtool
import torch
from kdtool_torch import collate, eval_mode, exact_logits, log_likelihood, max_over_ranks

from kdtool_trainer_standard import _checkpoints
from kdtool_trainer_standard._config import OnPolicy, Rollouts
from kdtool_trainer_standard._machine import autocast_to, dtype_name

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ServedSampler"]

_BOUND, _BOUND_OF_FLOAT32 = 0.1, 1e-3
"""Largest mean distance of the server's log-probabilities from the student's, in nats per token, in half precision and in
float32."""
_PROBED = 128


class ServedSampler:
    """Samples texts by a server that has the student's weights of the last multiple of `every` steps.

    Args:
        server: its settings.
        config: those of on-policy training.
        run: the run.
        checkpoints: the phase's folder.
        student: the student, as it trains.
        dtype: data type of matrix products.
        batch: a micro-batch, whose first tokens are read by both to compare them.

    Raises:
        UsageError: some of the student's weights are frozen or adapters.
        ServiceError: the server did not answer within its `patience`.
    """

    def __init__(
        self,
        server: Rollouts,
        config: OnPolicy,
        run: kdtool.RunInfo,
        checkpoints: Path,
        student: kdtool.LanguageModel,
        dtype: torch.dtype,
        batch: kdtool.Batch,
    ) -> None:
        from kdtool_teacher_vllm.rollouts import RolloutServer

        if not all(parameter.requires_grad for parameter in student.model.parameters()):
            raise kdtool.UsageError(
                "on_policy.sampler: vllm hands over whole students, but some weights of this one are frozen; leave "
                "transforms such as lora out, or set sampler: student"
            )
        self._config, self._run, self._checkpoints, self._student = config, run, checkpoints, student
        self._folder, self._dtype, self._probe = server.folder.absolute(), dtype, _first_document(batch)
        self._name = hashlib.sha256(str(checkpoints.absolute()).encode()).hexdigest()[:12]
        self._step: int | None = None
        """The step whose weights the server has; None before the first hand-over."""
        self._server = RolloutServer(
            server.url, server.key_variable, server.timeout, server.concurrency, offline=run.offline
        )
        if run.rank == 0 and not (self._current.is_dir() and self._current.resolve().name.startswith(self._name)):
            self._write(0)  # the student has not begun, so that a server can start with a model of its shape
        try:
            command = _command(server.url, self._current, dtype, batch.input_ids.shape[1])
            self._server.wait_until_ready(server.patience, f"start it with: {command}", run.say)
        except BaseException:
            self._server.close()
            raise
        if run.rank == 0:
            run.say(
                f"on_policy: vLLM samples, and gets the student's weights every {config.every} steps. Seeds are "
                f'random.Random("{run.seed} STEP MICRO_BATCH RANK").getrandbits(63), called for one after the other'
            )

    @property
    def _current(self) -> Path:
        return self._folder / "current"

    def is_due(self, done: int) -> bool:
        """Return whether the server lacks the weights for the step after `done` steps."""
        return self._step != self.first_of(done)

    def first_of(self, done: int) -> int:
        """Return the step whose weights sample the step after `done` steps."""
        return done - done % self._config.every

    def hand_over(self, done: int) -> None:
        """Hand over the weights for the step after `done` steps; all ranks call it.

        Raises:
            UsageError: the server cannot load them, or has another distribution afterwards.
            ServiceError: it does not answer.
        """
        step = self.first_of(done)
        if self._run.rank == 0:
            if step != done and not self._place(step).is_dir():
                self._run.say(
                    f"on_policy: the weights of step {step} are missing from {self._folder}; the texts of steps {done + 1} "
                    f"to {step + self._config.every} are sampled with those of step {done}"
                )
                self._write(step)
            elif step == done:
                self._write(step)
            self._link(step)
            self._server.load_weights(self._current)
        max_over_ranks([0.0], self._run.world)
        self._server.salt = self._place(step).name
        if self._run.rank == 0 and step == done:
            self._compare()
            self._forget(step)
        self._step = step

    def sample(self, prompts: list[list[int]], limits: list[int], seeds: list[int]) -> list[list[int]]:
        """Continue prompts as `kdtool.LanguageModel.generate` does.

        Raises:
            UsageError: the server refuses a prompt, or samples tokens that the tokenizer lacks.
            ServiceError: it does not answer.
        """
        tokenizer, config = self._student.tokenizer, self._config
        ends = getattr(tokenizer, "end_ids", (tokenizer.end_of_text,))
        texts = self._server.generate(prompts, limits, config.temperature, config.top_p, seeds, ends)
        greatest = max((token for text in texts for token in text), default=0)
        if greatest >= tokenizer.vocabulary:
            raise kdtool.UsageError(
                f"the server sampled token {greatest}, but the student's tokenizer has {tokenizer.vocabulary}: its head has "
                "more rows than tokens; set on_policy.sampler: student"
            )
        return texts

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def remove(self) -> None:
        """Remove the weights that no resumed phase needs: all except those that `current` links to."""
        if self._run.rank == 0:
            self._forget(None)

    def _place(self, step: int) -> Path:
        return self._folder / f"{self._name}-{step}"

    def _write(self, step: int) -> None:
        target = self._place(step)
        partial = target.with_name(f".{target.name}")
        try:
            for folder in (partial, target):
                shutil.rmtree(folder, ignore_errors=True)
            self._student.save(partial)
            partial.rename(target)
        except OSError as error:
            raise kdtool.StorageError(
                f"cannot write the student's weights to {target}: {error}; make room, or set another rollouts.folder"
            ) from error
        self._link(step)

    def _link(self, step: int) -> None:
        link = self._current.with_name(f".{self._name}-link")
        link.unlink(missing_ok=True)
        link.symlink_to(self._place(step).name)
        link.replace(self._current)

    def _forget(self, step: int | None) -> None:
        """Remove weights that no resumed phase needs; a checkpoint of the window before this one may still be written."""
        needed = {self._current.resolve().name}
        if step is not None:
            numbers = {self.first_of(_checkpoints.step_of(each)) for each in _checkpoints.all_of(self._checkpoints)}
            needed |= {self._place(each).name for each in {*numbers, step, step - self._config.every}}
        for folder in self._folder.glob(f"{self._name}-*"):
            if folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)

    def _compare(self) -> None:
        """Compare the server's log-probabilities of some tokens with the student's."""
        ids = self._probe
        row = kdtool.Row("probe", ids, [True] * len(ids), [0] * len(ids), {})
        batch = collate([row], self._student.head.weight.device)
        with eval_mode(self._student.model), autocast_to(self._dtype, batch.input_ids.device):
            states = self._student.backbone(batch, kdtool.SignalRequest()).last
            expected = log_likelihood(exact_logits(self._student.head, states), batch.labels[batch.labels >= 0])
        served = torch.tensor(self._server.log_probabilities(ids))
        distance = float((expected.cpu() - served).abs().mean())
        bound = _BOUND_OF_FLOAT32 if self._dtype == torch.float32 else _BOUND
        if not distance <= bound:
            raise kdtool.UsageError(
                f"on_policy: after the hand-over the server's log-probabilities differ from the student's by {distance:.2g} "
                f"nats per token, above {bound}: it did not load the weights in {self._current}. Start it with this "
                "folder, for one run only; on CPUs vLLM keeps the old head of tied embeddings"
            )


def _first_document(batch: kdtool.Batch) -> list[int]:
    """Return the first tokens of a batch's first document: at least two, and fewer than a row has."""
    ids, numbers = batch.input_ids[0].tolist(), batch.document[0].tolist()
    length = sum(number == numbers[0] for number in numbers)
    found: list[int] = ids[: max(2, min(length, _PROBED, len(ids) - 1))]
    return found


def _command(url: str, folder: Path, dtype: torch.dtype, length: int) -> str:
    """Return the command that starts a server for rows of `length` tokens."""
    parts = urlsplit(url)
    words: Sequence[str] = (
        "vllm", "serve", str(folder), "--served-model-name", "student", "--dtype", dtype_name(dtype),
        "--host", parts.hostname or "127.0.0.1", "--port", str(parts.port or 8000), "--max-model-len", str(length),
    )  # fmt: skip
    return f"VLLM_SERVER_DEV_MODE=1 {shlex.join(words)}"
