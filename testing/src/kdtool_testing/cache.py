"""The suite of caches: a small teacher whose signals are recorded, recalled, interrupted and damaged."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pytest
from kdtool import (
    Batch,
    Head,
    KdtoolError,
    LazyLogits,
    Row,
    RunInfo,
    Signal,
    SignalKind,
    SignalRequest,
    SparseTokens,
    StorageError,
)

from kdtool_testing.component import ComponentConformance
from kdtool_testing.model_checks import close, logits_of
from kdtool_testing.toy import Listener, ListSource, batch_of, make_run

if TYPE_CHECKING:
    from torch import Tensor

LENGTH, WIDTH, VOCABULARY, ROWS = 6, 8, 40, 11
KINDS: frozenset[SignalKind] = frozenset(get_args(SignalKind))


class CacheConformance(ComponentConformance):
    """A cache recalls what it recorded, row by row, in any batch, also after a killed recording.

    Give `settings` under which 11 rows fill several files.
    """

    kind: ClassVar[str] = "cache"

    wants: ClassVar[SignalRequest] = SignalRequest()
    """A request that the cache can serve; the suite's teacher has 4 layers of width 8 and 40 tokens."""

    @pytest.fixture
    def recording(self, run: RunInfo) -> Path:
        """A folder with the signals of all rows of the suite."""
        folder = run.folder / "signals"
        assert self._record(run, folder, self._teacher()) == ROWS
        return folder

    def test_what_it_offers_and_asks_for_is_possible(self) -> None:
        cache = self.build()
        assert cache.offers
        assert cache.offers <= KINDS
        assert cache.records(self.wants, KINDS).kinds <= KINDS

    def test_rows_are_recalled_alike_in_any_batch(self, recording: Path) -> None:
        rows = small_rows()
        alone = [self._recall(recording, [row]) for row in rows]
        for order in ([3, 1], [10, 0, 5], list(reversed(range(ROWS))), [2, 2]):
            together = self._recall(recording, [rows[i] for i in order])
            _same(together, [alone[i] for i in order])

    def test_what_is_recalled_is_what_the_teacher_told(self, recording: Path) -> None:
        batch = batch_of(small_rows())
        told, recalled = self._teacher().signal(batch), self._recall(recording, small_rows())
        if told.lazy is not None and recalled.lazy is not None:
            close(
                logits_of(recalled.lazy.hidden, recalled.lazy.head),
                logits_of(told.lazy.hidden, told.lazy.head),
                "logits differ",
            )
        for layer in set(told.hidden) & set(recalled.hidden):
            close(recalled.hidden[layer].float(), told.hidden[layer], f"hidden states of layer {layer} differ")
        if (
            told.sparse is not None
            and recalled.sparse is not None
            and recalled.sparse.form == told.sparse.form == "top-k"
        ):
            for tokens, expected in zip(_as_sets(recalled.sparse), _as_sets(told.sparse), strict=True):
                assert tokens == pytest.approx(expected, rel=2e-2)

    def test_threads_recall_at_the_same_time(self, recording: Path) -> None:
        cache, rows = self.build(), small_rows()
        expected = [self._recall(recording, [row]) for row in rows]

        def recall(begin: int) -> None:
            for number in range(begin, begin + 5 * ROWS):
                signal = cache.kdtool_recall(batch_of([rows[number % ROWS]]), self.wants, recording)
                _same(signal, [expected[number % ROWS]])

        try:
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(recall, range(4)))
        finally:
            cache.kdtool_close()

    def test_recalling_reads_and_does_not_write(self, recording: Path) -> None:
        before = {path: path.read_bytes() for path in recording.rglob("*") if path.is_file()}
        self._recall(recording, small_rows())
        assert {path: path.read_bytes() for path in recording.rglob("*") if path.is_file()} == before

    def test_recalling_needs_nothing_but_the_folder(self, recording: Path) -> None:
        first, second = (self._recall(recording, small_rows()[:3]) for _ in range(2))
        _same(first, [second])
        assert first.fingerprint == Teacher.fingerprint

    def test_a_row_that_is_not_there_is_named(self, recording: Path) -> None:
        stranger = Row("stranger", [1] * LENGTH, [True] * LENGTH, [0] * LENGTH)
        with pytest.raises(KdtoolError, match="stranger"):
            self._recall(recording, [stranger])

    def test_a_killed_recording_goes_on_where_it_stopped(self, run: RunInfo, recording: Path) -> None:
        folder = run.folder / "interrupted"
        with pytest.raises(KeyboardInterrupt):
            self._record(run, folder, self._teacher(rows_before_death=7))
        survivor = self._teacher()
        assert self._record(run, folder, survivor) == ROWS
        assert len(survivor.asked) < ROWS, "nothing of the killed recording was used"
        for row in small_rows():
            _same(self._recall(folder, [row]), [self._recall(recording, [row])])

    def test_ranks_record_together(self, run: RunInfo, recording: Path) -> None:
        if not self.build().every_rank_records:
            return
        folder = run.folder / "together"
        folder.mkdir()
        counted: dict[int, int] = {}

        def record(rank: int) -> None:
            counted[rank] = self._record(replace(run, rank=rank, world=3), folder, self._teacher())

        ranks = [Thread(target=record, args=(rank,), daemon=True) for rank in range(3)]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(60)
        assert set(counted) == {0, 1, 2}, "a rank failed, or waits for ever"
        assert counted[0] == ROWS
        _same(self._recall(folder, small_rows()), [self._recall(recording, small_rows())])

    def test_recording_again_asks_for_nothing(self, run: RunInfo, recording: Path) -> None:
        teacher = self._teacher()
        assert self._record(run, recording, teacher) == ROWS
        assert teacher.asked == []

    def test_a_flipped_byte_is_noticed(self, recording: Path) -> None:
        for path in sorted(recording.rglob("*.safetensors")):
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        with pytest.raises(StorageError):
            self._recall(recording, small_rows())

    def test_progress_is_told(self, tmp_path: Path) -> None:
        listener = Listener()
        self._record(make_run(tmp_path, {"listener": listener}), tmp_path / "signals", self._teacher())
        assert listener.progress == sorted(listener.progress)
        assert listener.progress[-1] == ROWS

    def _teacher(self, rows_before_death: int = 1000) -> Teacher:
        return Teacher(self.build().records(self.wants, KINDS), rows_before_death)

    def _record(self, run: RunInfo, folder: Path, teacher: Teacher) -> int:
        folder.mkdir(exist_ok=True)
        count: int = self.build().kdtool_record(run, ListSource(small_rows()), teacher, folder)
        return count

    def _recall(self, folder: Path, rows: Sequence[Row]) -> Signal:
        cache = self.build()
        try:
            signal: Signal = cache.kdtool_recall(batch_of(rows), self.wants, folder)
        finally:
            cache.kdtool_close()
        return signal


@dataclass
class Teacher:
    """A teacher of few numbers, drawn for each row from its key: a `kdtool.SignalSource`."""

    want: SignalRequest
    rows_before_death: int = 1000
    asked: list[str] = field(default_factory=list)
    fingerprint: ClassVar[str] = "small teacher"

    def signal(self, batch: Batch, chosen: object = None) -> Signal:
        """Return the requested signal of the batch; die as if killed when too many rows were requested."""
        import torch

        self.asked += batch.row_keys
        if len(self.asked) > self.rows_before_death:
            raise KeyboardInterrupt
        last = torch.cat([self._states(key, -1)[kept] for key, kept in _labelled_positions(batch)])
        head = Head(
            torch.randn(VOCABULARY + 3, WIDTH, generator=_generator("head")), VOCABULARY, scale=0.5, soft_cap=30.0
        )
        hidden = {
            layer: torch.cat([self._states(key, layer)[kept] for key, kept in _labelled_positions(batch)])
            for layer in self.want.layers
        }
        sparse = None
        if self.want.kinds & {"sampled", "top-k"}:
            logits = (last @ head.weight.T)[:, :VOCABULARY] * 0.5
            weights, ids = (logits / self.want.temperature).softmax(-1).topk(4)
            form: Any = "top-k" if "top-k" in self.want.kinds else "sampled"
            weights = weights if form == "top-k" else weights / weights.sum(-1, keepdim=True)
            sparse = SparseTokens(ids.int(), weights, form, self.want.temperature)
        lazy = LazyLogits(last, head) if "logits" in self.want.kinds else None
        return Signal(self.fingerprint, lazy, sparse, hidden if "hidden" in self.want.kinds else {})

    def _states(self, key: str, layer: int) -> Tensor:
        import torch

        states: Tensor = torch.randn(LENGTH, WIDTH, generator=_generator(f"{key} {layer}"))
        return states


def small_rows() -> list[Row]:
    """Return the suite's rows: different numbers of labelled tokens, one row without any."""
    return [
        Row(
            f"row{i}",
            [(i + j) % VOCABULARY for j in range(LENGTH)],
            [j > i % LENGTH for j in range(LENGTH)],
            [0] * LENGTH,
        )
        for i in range(ROWS)
    ]


def _labelled_positions(batch: Batch) -> list[tuple[str, Tensor]]:
    return [(key, labels != -100) for key, labels in zip(batch.row_keys, batch.labels, strict=True)]


def _generator(text: str) -> Any:
    import torch

    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")
    return torch.Generator().manual_seed(seed)


def _same(signal: Signal, expected: Sequence[Signal]) -> None:
    """Assert that a batch's signal is its rows' signals one after the other, bit for bit."""
    import torch

    assert (signal.lazy is None) == (expected[0].lazy is None)
    if signal.lazy is not None:
        assert torch.equal(signal.lazy.hidden, torch.cat([s.lazy.hidden for s in expected if s.lazy]))
    assert (signal.sparse is None) == (expected[0].sparse is None)
    if signal.sparse is not None:
        assert _as_sets(signal.sparse) == [row for s in expected if s.sparse for row in _as_sets(s.sparse)]
    assert set(signal.hidden) == set(expected[0].hidden)
    for layer, states in signal.hidden.items():
        assert torch.equal(states, torch.cat([s.hidden[layer] for s in expected]))


def _as_sets(sparse: SparseTokens) -> list[dict[int, float]]:
    pairs = zip(sparse.ids.tolist(), sparse.weights.tolist(), strict=True)
    return [{i: w for i, w in zip(ids, weights, strict=True) if i >= 0} for ids, weights in pairs]
