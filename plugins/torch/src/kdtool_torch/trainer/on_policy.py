"""On-policy steps: text from the student, or from a vLLM server with its weights, replaces some of the corpus (GKD).

The loop asks for it before the labels of a step are counted. A whole step is on-policy or none of it: sampled text
mostly has fewer labels, so in a step of both kinds its share of the gradient would be below its share of the rows. The
choice is derived from (seed, step), so all ranks sample in the same steps and none waits for another; the samples are
derived from micro-batch and rank, too. No generator state is checkpointed, and global generators are untouched.

A vLLM server gets the student's weights through a folder, every `every` steps. The folder `current` is a link to the
newest weights, so a server that is started again has those of the one before. A text depends on its seed and on the
weights that were handed over last: they are kept while a phase may resume from a checkpoint that was written after
them.
"""

from __future__ import annotations

import hashlib
import random
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import kdtool
import torch

from kdtool_torch.batch import NO_LABEL, collate
from kdtool_torch.device import max_over_ranks
from kdtool_torch.machine import dtype_name
from kdtool_torch.numerics import autocast_to, eval_mode, exact_logits, log_likelihood
from kdtool_torch.trainer.checkpoint import checkpoint_step, list_checkpoints
from kdtool_torch.trainer.settings import OnPolicy, Rollouts

STUDENT_GENERATED = "student_generated"
"""The column of tokens that the student generated: 1 for these, 0 for the corpus's."""


class _Document(NamedTuple):
    """A document of a row. The student continues its first `prompt` tokens by at most `limit` tokens; not at all if it is 0.

    `columns` are the numbers that all its learned tokens share, besides 0, which stands for none.
    """

    number: int
    ids: list[int]
    prompt: int
    limit: int
    columns: Mapping[str, int]


class OnPolicySampler:
    """Replaces the text of some steps by samples of the student: Agarwal et al. (GKD), arXiv 2306.13649, algorithm 1.

    `counts` are of this process since the phase began: micro-batches, those that were sampled, the documents that the
    student continued in them, the tokens that it generated, and the texts that ended at their limit. `served` samples in
    place of the student if it is set.
    """

    def __init__(
        self, config: OnPolicy, run: kdtool.RunInfo, student: kdtool.LanguageModel, dtype: torch.dtype
    ) -> None:
        self._config, self._run, self._student, self._dtype = config, run, student, dtype
        self.served: ServedSampler | None = None
        self.counts = dict.fromkeys(("batches", "sampled", "documents", "tokens", "cut"), 0)

    def __call__(self, batch: kdtool.Batch, step: int, number: int) -> kdtool.Batch:
        """Return micro-batch `number` of a step as it is learned: with the column `student_generated`, in the same shape.

        If it is sampled, only generated tokens have labels. Their other columns are the document's if it has one number
        there, else 0. Documents without labels are prompts as a whole, and stay as they are if their row has no free tokens.
        Short rows are padded.
        """
        self.counts["batches"] += 1
        if not self.is_sampled(step):
            return self.mark_as_corpus(batch)
        chance = random.Random(f"{self._run.seed} {step} {number} {self._run.rank}")
        start = len(self._student.tokenizer.document_start)
        samples = self._config.samples
        prompts = list(_rows_of(batch))[: max(1, len(batch.row_keys) // samples)]
        rows = [_documents(*row, self._config.prompt, start) for row in prompts for _ in range(samples)]
        new = self._write([document for row in rows for document in row], chance)
        self.counts["sampled"] += 1
        keys = [f"{key}, continued at step {step}" for key in batch.row_keys[: len(prompts)]]
        if samples > 1:
            keys = [f"{key}, sample {sample}" for key in keys for sample in range(1, samples + 1)]
        return collate(
            [self._row(key, row, new, batch) for key, row in zip(keys, rows, strict=True)], batch.input_ids.device
        )

    def is_sampled(self, step: int) -> bool:
        """Return whether the student writes the text of a step, in all its micro-batches on all ranks."""
        return random.Random(f"{self._run.seed} {step}").random() < self._config.fraction

    def hand_over(self, done: int) -> None:
        """Hand the weights for the step after `done` steps to the server, if one samples and lacks them.

        Raises:
            UsageError, ServiceError, StorageError: it cannot load them.
        """
        served = self.served
        if served is not None and served.is_due(done):
            window = range(done + 1, served.first_of(done) + self._config.every + 1)
            if any(map(self.is_sampled, window)):
                served.hand_over(done)

    def mark_as_corpus(self, batch: kdtool.Batch) -> kdtool.Batch:
        """Return a batch of the corpus with the column `student_generated`, all zeros."""
        return replace(batch, columns={**batch.columns, STUDENT_GENERATED: torch.zeros_like(batch.labels)})

    def try_out(self, batch: kdtool.Batch) -> None:
        """Have the student write one token, to refuse a student that cannot before the first step."""
        if self.served is None:
            self._sample([batch.input_ids[0, :1].tolist()], [1], [0])

    def _write(self, documents: Sequence[_Document], chance: random.Random) -> Iterator[list[int]]:
        """Yield the student's continuation of each document that it continues."""
        asked = [each for each in documents if each.limit]
        limits = [min(self._config.tokens, each.limit) for each in asked]
        prompts = [each.ids[: each.prompt] for each in asked]
        new = self._sample(prompts, limits, [chance.getrandbits(63) for _ in asked])
        self.counts["documents"] += len(new)
        self.counts["tokens"] += sum(map(len, new))
        tokenizer = self._student.tokenizer
        ends = getattr(tokenizer, "end_ids", (tokenizer.end_of_text,))  # of chat models also the end of an answer
        cut = (len(text) >= limit and text[-1] not in ends for text, limit in zip(new, limits, strict=True))
        self.counts["cut"] += sum(cut)
        return iter(new)

    def _sample(self, prompts: list[list[int]], limits: list[int], seeds: list[int]) -> list[list[int]]:
        if self.served is not None:
            return self.served.sample(prompts, limits, seeds)
        with autocast_to(self._dtype, self._student.head.weight.device):
            return self._student.generate(prompts, limits, self._config.temperature, seeds, self._config.top_p)

    def _row(
        self, key: str, documents: Sequence[_Document], new: Iterator[list[int]], batch: kdtool.Batch
    ) -> kdtool.Row:
        """Join the documents of a row again, each with its continuation, taken from `new`."""
        ids, written, numbers = list[int](), list[bool](), list[int]()
        columns: dict[str, list[int]] = {name: [] for name in batch.columns}
        for document in documents:
            continuation = next(new) if document.limit else []
            whole = document.ids[: document.prompt] + continuation
            ids += whole
            written += [False] * (len(whole) - len(continuation)) + [True] * len(continuation)
            numbers += [document.number] * len(whole)
            for name, column in columns.items():
                column.extend([document.columns.get(name, 0)] * len(whole))
        length = batch.input_ids.shape[1]
        missing = length - len(ids)
        written += [False] * missing
        return kdtool.Row(
            key,
            ids + [self._student.tokenizer.end_of_text] * missing,
            written,
            numbers + [-1] * missing,
            {name: column + [0] * missing for name, column in columns.items()}
            | {STUDENT_GENERATED: list(map(int, written))},
        )


def _rows_of(batch: kdtool.Batch) -> Iterator[tuple[list[int], list[int], list[int], dict[str, list[int]]]]:
    """Yield each row's tokens, labels, numbers of documents, and columns."""
    columns = {name: column.tolist() for name, column in batch.columns.items()}
    rows = zip(batch.input_ids.tolist(), batch.labels.tolist(), batch.document.tolist(), strict=True)
    yield from ((*row, {name: column[at] for name, column in columns.items()}) for at, row in enumerate(rows))


def _documents(
    ids: list[int], labels: list[int], numbers: list[int], columns: dict[str, list[int]], share: float, start: int
) -> list[_Document]:
    """Return a row's documents; those with a prompt share the row's padding."""
    documents, prompted, begin = list[_Document](), list[int](), 0
    for number, tokens in groupby(numbers):
        part = slice(begin, begin + len(list(tokens)))
        if number >= 0:
            numbers_in = {name: {*column[part]} - {0} for name, column in columns.items()}
            shared = {name: values.pop() for name, values in numbers_in.items() if len(values) == 1}
            size, prompt = part.stop - begin, _prompt(labels[part], start)
            if prompt is None:
                prompt = max(1, int(share * size))
            elif size > start + 1:  # else the last token of a text that was cut
                prompted.append(len(documents))
            documents.append(_Document(number, ids[part], prompt, size - prompt, shared))
        begin = part.stop
    extra = numbers.count(-1) // max(1, len(prompted))
    return [
        document._replace(limit=document.limit + extra) if index in prompted else document
        for index, document in enumerate(documents)
    ]


def _prompt(labels: Sequence[int], start: int) -> int | None:
    """Return how many tokens of a document come before the first that is learned, or all if none is; None of a plain text.

    The `start` tokens that begin a text are never learned, nor is the token after them if a document continues.
    """
    first = next((index for index, label in enumerate(labels) if label != NO_LABEL), None)
    if first is None:
        return len(labels)
    return first + 1 if first > start else None


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
        self._server = RolloutServer(server.url, server.key_variable, offline=run.offline)
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
            numbers = {self.first_of(checkpoint_step(each)) for each in list_checkpoints(self._checkpoints)}
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
