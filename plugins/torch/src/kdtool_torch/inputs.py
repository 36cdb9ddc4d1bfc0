"""Inputs of the steps: rows in a shuffled order, as micro-batches with the signals of all teachers, prepared in a thread.

The phase is one long list of positions; position p has row shuffle(epoch p // rows)[p % rows], independent of batch
size and world size. So a resumed phase continues at its position, regardless of prefetching. A step is `rows_per_step`
successive rows, however many processes share them: micro-batch m of rank r consists of the rows (m · world + r) · batch
onwards. The thread reads and collates rows, copies them to the device and decodes recorded signals.

Signals are for a batch's rows, or for the same rows in a teacher's own tokenizer. Some rows are selected by the
self-tests, which look at one row, and by the measurement of gradient norms, which looks at a few. Everything that depends
on values is computed in main memory: no GPU waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import kdtool
import torch
from torch import Tensor

from kdtool_torch.batch import NO_LABEL, batch_rows, collate, compute_on_host, loss_labels, map_tensors, move
from kdtool_torch.head import Projection
from kdtool_torch.numerics import autocast_to, eval_mode


class RowsInOrder(torch.utils.data.Dataset[kdtool.Row]):
    """The rows of a phase in the order in which they are learned from.

    Args:
        rows: the rows, at least one.
        length: length of the list; after all rows, they are shuffled again and repeated.
        seed: the run's seed.
    """

    def __init__(self, rows: kdtool.RowSource, length: int, seed: int) -> None:
        self._rows = rows
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> kdtool.Row:
        epoch, offset = divmod(index, len(self._rows))
        row = self._rows[_shuffle(len(self._rows), self._seed, epoch)[offset]]
        return replace(row, turn=self._seed + epoch)


@lru_cache(maxsize=2)
def _shuffle(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows on the device, each teacher's signal, and the same rows in the tokenizers of teachers that read no other."""

    batch: kdtool.Batch
    signals: Mapping[str, kdtool.Signal] = field(default_factory=dict)
    teacher_batches: Mapping[str, kdtool.Batch] = field(default_factory=dict)


def imitated_by_row(batch: kdtool.Batch) -> tuple[int, ...]:
    """Return how many positions of each row are in the loss mask."""
    rejected = batch.columns.get("rejected")
    return compute_on_host(_count, batch.labels, *([] if rejected is None else [rejected]))


def select_rows(rows: Sequence[int], whole: MicroBatch) -> MicroBatch:
    """Return only these rows, in ascending order, with their signals."""
    others = whole.teacher_batches
    return MicroBatch(
        batch_rows(whole.batch, rows),
        {name: _rows_of_signal(each, others.get(name, whole.batch), rows) for name, each in whole.signals.items()},
        {name: batch_rows(batch, rows) for name, batch in others.items()},
    )


def select_signal(signal: kdtool.Signal, where: slice | Tensor) -> kdtool.Signal:
    """Return the signal with only these positions in its tensors over N positions."""

    def of(value: Any) -> Any:
        names = (name for name in ("hidden", "ids", "weights", "log_probabilities") if hasattr(value, name))
        return value and replace(value, **{name: getattr(value, name)[where] for name in names})

    hidden = {layer: states[where] for layer, states in signal.hidden.items()}
    return replace(signal, lazy=of(signal.lazy), sparse=of(signal.sparse), chosen=of(signal.chosen), hidden=hidden)


def plain_tensors(signal: kdtool.Signal) -> kdtool.Signal:
    """Return the signal without inference tensors, which autograd refuses to keep for backward."""
    without_lazy = map_tensors(_plain, replace(signal, lazy=None))
    return replace(without_lazy, lazy=signal.lazy)  # lazy states are projected by us, which gives ordinary tensors


def _rows_of_signal(signal: kdtool.Signal, batch: kdtool.Batch, rows: Sequence[int]) -> kdtool.Signal:
    counts, device = compute_on_host(_count, batch.labels), batch.labels.device
    starts = [sum(counts[:row]) for row in rows]
    numbers = [number for row, start in zip(rows, starts, strict=True) for number in range(start, start + counts[row])]
    positions = move(torch.tensor(numbers, dtype=torch.int64), device)
    only = move(torch.tensor(rows), device)
    return replace(
        select_signal(signal, positions),
        attentions={layer: maps[only] for layer, maps in signal.attentions.items()},
        projections={
            layer: kdtool.Projections(*(tensor[only] for tensor in tensors))
            for layer, tensors in signal.projections.items()
        },
    )


def _count(labels: Tensor, rejected: Tensor | None = None) -> tuple[int, ...]:
    learned = labels if rejected is None else loss_labels(labels, {"rejected": rejected})
    return tuple((learned != NO_LABEL).sum(1).tolist())


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


class TeacherSignals:
    """Queries every teacher for one micro-batch: `recall` may run in a background thread, `query_live` runs models.

    A teacher chooses its own precision. One that is the initial student computes in `dtype`, that of the student: with
    equal weights, their likelihoods are equal too, and the margin of DPO is 0 at the first step.

    A teacher that is asked about tokens of the student's choice gets the likeliest ones of `student`, which reads the batch
    once more for that, without dropout; `chunk` positions have logits at once.
    """

    def __init__(
        self,
        run: kdtool.RunInfo,
        phase: kdtool.Phase,
        student: kdtool.LanguageModel,
        dtype: torch.dtype,
        chunk: int = 512,
    ) -> None:
        self._student, self._dtype, self._chunk = student, dtype, chunk
        self._tokens = {name: _student_tokens(run, phase, name) for name in phase.signals}
        self._shared = min((term.shared for term in phase.terms if term.shared is not None), default=None)
        self._initial_students = frozenset(
            name
            for name in phase.signals.keys() & run.implementing("kdtool_signal")
            if run.component(name, kdtool.Teacher).initial_student is not None
        )
        self._rows = phase.teacher_rows
        self._numbers: dict[str, dict[str, int]] = {}
        self._recorded = {name: each for name, each in phase.signals.items() if getattr(each, "recorded", False)}
        self._live = {name: each for name, each in phase.signals.items() if name not in self._recorded}

    def __call__(self, batch: kdtool.Batch) -> MicroBatch:
        """Return the micro-batch with the signals of all teachers."""
        return self.query_live(self.recall(batch))

    def recall(self, batch: kdtool.Batch) -> MicroBatch:
        """Return the micro-batch with the signals that are read from caches."""
        batches = {name: self._batch(name, batch) for name in self._rows}
        recorded = {name: each.signal(batches.get(name, batch)) for name, each in self._recorded.items()}
        return MicroBatch(batch, recorded, batches)

    def query_live(self, micro_batch: MicroBatch) -> MicroBatch:
        """Return the micro-batch with the signals of teachers that run with the student, too."""
        batch, others = micro_batch.batch, micro_batch.teacher_batches
        most = max((self._tokens[name] for name in self._live), default=0)
        likeliest = self._likeliest(batch, most) if most else None
        live = {name: self._ask(name, others.get(name, batch), likeliest) for name in self._live}
        signals = {name: plain_tensors(signal) for name, signal in {**micro_batch.signals, **live}.items()}
        return replace(micro_batch, signals=signals)

    def _ask(self, teacher: str, batch: kdtool.Batch, likeliest: Tensor | None) -> kdtool.Signal:
        if likeliest is not None and (count := self._tokens[teacher]):
            return self._live[teacher].signal(batch, likeliest[:, :count].contiguous())
        if teacher not in self._initial_students or self._dtype == torch.float32:
            return self._live[teacher].signal(batch)
        with autocast_to(self._dtype, batch.input_ids.device):
            signal = self._live[teacher].signal(batch)
        if signal.lazy is None:
            return signal
        head = signal.lazy.head  # the student's is cast once per micro-batch, too
        return replace(signal, lazy=replace(signal.lazy, head=replace(head, weight=head.weight.to(self._dtype))))

    def _likeliest(self, batch: kdtool.Batch, count: int) -> Tensor:
        """Return the student's likeliest tokens at the labels of a batch, likeliest first, [N, count] int32."""
        with eval_mode(self._student.model), autocast_to(self._dtype, batch.input_ids.device):
            states = self._student.backbone(batch, kdtool.SignalRequest()).last
        head, shared = self._student.head, self._shared
        projection = Projection(replace(head, vocabulary=min(head.vocabulary, shared or head.vocabulary)), self._dtype)
        parts = [
            projection.logits(part).topk(min(count, projection.vocabulary)) for part in torch.split(states, self._chunk)
        ]
        return torch.cat([part.indices for part in parts]).int()

    def _batch(self, teacher: str, batch: kdtool.Batch) -> kdtool.Batch:
        rows, numbers = self._rows[teacher], self._row_numbers(teacher)
        teacher_batch = collate([rows[numbers[key]] for key in batch.row_keys], batch.input_ids.device)
        return replace(teacher_batch, turns=batch.turns)

    def _row_numbers(self, teacher: str) -> Mapping[str, int]:
        if teacher not in self._numbers:
            rows = self._rows[teacher]
            self._numbers[teacher] = {rows[number].key: number for number in range(len(rows))}
        return self._numbers[teacher]


def _student_tokens(run: kdtool.RunInfo, phase: kdtool.Phase, teacher: str) -> int:
    """Return how many of the student's likeliest tokens a teacher is asked about at each position; mostly 0."""
    if "chosen" not in phase.signals[teacher].want.kinds:
        return 0
    asking = (term for term in phase.terms if teacher in term.teachers)
    return max(run.component(term.name, kdtool.Loss).student_tokens for term in asking)


T = TypeVar("T")


_DEPTH = 2
"""Items that the thread prepares in advance: a micro-batch that computes, and one that waits, hide all its work."""


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield items that a thread makes in advance, in order. An error in the thread is raised here, in its turn."""
    with ThreadPoolExecutor(1, "kdtool inputs") as thread:
        made = deque(thread.submit(next, items, None) for _ in range(_DEPTH))
        while (item := made.popleft().result()) is not None:
            made.append(thread.submit(next, items, None))
            yield item


class StepInputs:
    """The inputs of a rank's steps from `first`, counted from 0. `close` ends the thread.

    Args:
        teachers: their signals are decoded in advance if they were recorded; None for only the batches.
    """

    def __init__(
        self,
        rows: RowsInOrder,
        batch: int,
        micro_batches: int,
        rank: int,
        world: int,
        device: torch.device,
        teachers: TeacherSignals | None,
        first: int,
    ) -> None:
        self._rows, self._batch, self._count, self._rank, self._world = rows, batch, micro_batches, rank, world
        self._device, self._teachers = device, teachers
        self._ahead = ahead(self._items(first))

    def close(self) -> None:
        """End the thread."""
        self._ahead.close()

    def batches(self) -> list[kdtool.Batch]:
        """Return the micro-batches of the next step, in main memory. Take all of `micro_batches` before the next call."""
        batches = next(self._ahead)
        assert isinstance(batches, list)  # noqa: S101 - the order of `_items`
        return batches

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Yield the same micro-batches on the device, with the recorded signals; only if there are teachers."""
        for _ in range(self._count):
            micro_batch = next(self._ahead)
            assert isinstance(micro_batch, MicroBatch)  # noqa: S101 - the order of `_items`
            yield micro_batch

    def _items(self, step: int) -> Iterator[Sequence[kdtool.Batch] | MicroBatch]:
        """Yield for each step its batches, which are counted first, and then each one with its signals."""
        while (step + 1) * self._count * self._world * self._batch <= len(self._rows):
            batches = [self._collate(step * self._count + number) for number in range(self._count)]
            yield batches
            if self._teachers is not None:
                for batch in batches:
                    with torch.no_grad():
                        yield self._teachers.recall(move(batch, self._device))
            step += 1

    def _collate(self, number: int) -> kdtool.Batch:
        start = (number * self._world + self._rank) * self._batch
        return collate([self._rows[index] for index in range(start, start + self._batch)])
