"""The suite of teachers. Torch is imported when a test of token signals runs."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import pytest
from kdtool import (
    Batch,
    ChosenTokens,
    LanguageModel,
    Row,
    RunInfo,
    Signal,
    SignalKind,
    SignalRequest,
    SparseTokens,
    Subject,
    Tokenizer,
)
from kdtool._plugins.hook_specs import implements

from kdtool_testing.component import ComponentConformance
from kdtool_testing.model_checks import (
    TEXTS,
    check_answers,
    check_model,
    check_runtime,
    check_tokenizer,
    close,
    compute_logits,
    logits_of,
    no_model_is_built,
    pack_rows,
    same_shapes,
)
from kdtool_testing.toy import batch_of

if TYPE_CHECKING:
    from torch import Tensor

LAYER = 0


class TeacherConformance(ComponentConformance):
    """A teacher returns exactly the signals requested of it, and those of a row do not depend on its batch.

    Return settings of a small model from `prepare` (`write_toy_model` writes one); nothing here needs a trained one. A
    teacher that offers only text needs no tokenizer.
    """

    kind: ClassVar[str] = "teacher"
    columns: ClassVar[Mapping[str, int]] = {}
    """The number of values of each column that the teacher reads; documents have one after the other."""

    @pytest.fixture
    def teacher(self, run: RunInfo) -> Any:
        """The teacher, ready."""
        return self.ready(run)

    @pytest.fixture
    def tokenizer(self, teacher: Any, run: RunInfo) -> Tokenizer | None:
        """The teacher's tokenizer; None if it has none."""
        found: Tokenizer | None = teacher.kdtool_tokenizer(run)
        return found

    @pytest.fixture
    def rows(self, tokenizer: Tokenizer | None) -> list[Row]:
        """Rows of the teacher's tokens; none of a teacher without a tokenizer."""
        return [self._with_columns(at, row) for at, row in enumerate(pack_rows(tokenizer))] if tokenizer else []

    def _with_columns(self, at: int, row: Row) -> Row:
        columns = {name: [(at + number) % count for number in row.document] for name, count in self.columns.items()}
        return replace(row, columns=columns)

    def test_what_it_offers_is_possible(self, teacher: Any) -> None:
        assert isinstance(teacher.offers, frozenset)
        assert teacher.offers
        assert teacher.offers <= frozenset(get_args(SignalKind))

    def test_its_tokenizer_needs_no_weights_and_keeps_text(self, run: RunInfo, tmp_path: Path) -> None:
        with no_model_is_built():
            tokenizer = self.ready(run).kdtool_tokenizer(run)
        if tokenizer is None:
            offers = self.ready(run).offers
            assert offers <= {"text"}, "return a tokenizer from kdtool_tokenizer: signals of tokens need one"
            return
        check_tokenizer(tokenizer, tmp_path / "tokenizer")
        assert self.ready(run).kdtool_tokenizer(run).fingerprint == tokenizer.fingerprint

    def test_its_description_is_the_model_and_needs_no_weights(self, run: RunInfo) -> None:
        described = self.ready(run).kdtool_describe(run)
        runtime = self.ready(run).kdtool_open(run, Subject("teacher", "teacher"))
        if runtime is None or runtime.model is None:
            return
        with runtime:
            assert described is not None, "a teacher whose model is here describes it"
            same_shapes(replace(described, trainable=runtime.model.facts.trainable), runtime.model.facts)
            check_model(runtime.model)

    def test_signals_have_the_right_forms(self, teacher: Any, tokenizer: Tokenizer, rows: list[Row]) -> None:
        for kinds in _requests(teacher):
            for own in (rows, _without_labels(rows)):
                batch = batch_of(own)
                want = _want(kinds, batch)
                check_signal(teacher.kdtool_signal(batch, want), batch, want, tokenizer)

    def test_signals_are_the_same_each_time(self, run: RunInfo, teacher: Any, rows: list[Row]) -> None:
        other = self.ready(run)
        other.kdtool_tokenizer(run)
        for kinds in _requests(teacher):
            batch = batch_of(rows)
            want = _want(kinds, batch)
            first, second, third = (each.kdtool_signal(batch, want) for each in (teacher, teacher, other))
            for again in (second, third):
                for one, two in zip(_tensors(first), _tensors(again), strict=True):
                    assert (one == two).all()

    def test_a_row_s_signal_does_not_depend_on_its_batch(self, teacher: Any, rows: list[Row]) -> None:
        for kinds in _requests(teacher):
            if kinds == {"sampled"}:
                continue  # samples are random, and fixed by the row at most
            for order in ([2, 0], [3, 2, 1, 0]):
                together = _parts(_ask(teacher, kinds, [rows[i] for i in order]))
                alone = [_parts(_ask(teacher, kinds, [rows[i]])) for i in order]
                for place, found in enumerate(together):
                    _agree(found, [parts[place] for parts in alone])

    def test_documents_of_a_row_do_not_see_each_other(self, teacher: Any, rows: list[Row]) -> None:
        if "logits" not in teacher.offers:
            return
        row = rows[0]
        cut, ids = row.document.index(1), list(row.input_ids)
        ids[0] = next(other for other in ids if other != ids[0])
        signals = [
            teacher.kdtool_signal(batch_of([r]), SignalRequest(frozenset({"logits"}))) for r in (row, _with(row, ids))
        ]
        first, second = (logits_of(signal.lazy.hidden, signal.lazy.head).cpu() for signal in signals)
        kept = sum(row.labelled[i] for i in range(1, cut))
        close(second[kept:], first[kept:], "documents see each other")

    def test_signals_can_be_learned_from(self, teacher: Any, rows: list[Row]) -> None:
        import torch

        for kinds in _requests(teacher):
            signal = _ask(teacher, kinds, rows)
            for tensor in _tensors(signal):
                assert not tensor.requires_grad
                if tensor.is_floating_point():
                    weight = torch.ones((), requires_grad=True)
                    torch.autograd.backward((tensor.float() * weight).sum())  # fails on tensors of inference mode

    def test_prompts_are_answered(self, teacher: Any, run: RunInfo) -> None:
        if "text" not in teacher.offers:
            return
        teacher.kdtool_tokenizer(run)
        check_answers(teacher.kdtool_answer)

    def test_it_opens_itself_and_nothing_else(self, teacher: Any, run: RunInfo) -> None:
        for role in ("student", "control", "artifact"):
            assert teacher.kdtool_open(run, Subject("student", role, run.folder, 0)) is None
        runtime = teacher.kdtool_open(run, Subject("teacher", "teacher"))
        if runtime is not None:
            check_runtime(runtime)
            runtime.close()
            runtime.close()

    def test_it_switches_to_trained_weights_and_back(self, run: RunInfo, tmp_path: Path) -> None:
        teacher, folder = self.ready(run), tmp_path / "learned"
        trained, loads = (implements(type(teacher), f"kdtool_{name}") for name in ("trainable", "load_weights"))
        assert loads == (trained or teacher.initial_student is not None), (
            "implement kdtool_load_weights together with kdtool_trainable or initial_student"
        )
        if not trained:
            return
        described, identity, before = teacher.kdtool_describe(run), teacher.kdtool_identity(run), _scores(teacher, run)
        with teacher.kdtool_trainable(run) as runtime:
            facts = runtime.model.facts
            same_shapes(replace(described, trainable=facts.trainable, dtype=facts.dtype), facts)
            learned = _train(runtime.model)
            assert _scores(teacher, run) == before, "what is trained is a copy"
            runtime.model.save(folder)
        teacher.kdtool_load_weights(run, folder)
        after = _scores(teacher, run)
        assert after != before
        assert teacher.kdtool_describe(run) == described
        assert identity is None or teacher.kdtool_identity(run) != identity
        other = self.ready(run)
        other.kdtool_load_weights(run, folder)
        assert _scores(other, run) == after, "it depends only on the folder"
        with other.kdtool_trainable(run) as runtime:
            again = compute_logits(runtime.model, batch_of(pack_rows(runtime.model.tokenizer)))
        close(again, learned, "the next phase begins with the trained weights")
        teacher.kdtool_load_weights(run, None)
        assert _scores(teacher, run) == before
        assert teacher.kdtool_identity(run) == identity

    def test_it_can_be_closed_after_work_and_twice(self, teacher: Any, rows: list[Row]) -> None:
        for kinds in _requests(teacher):
            _ask(teacher, kinds, rows)
        teacher.kdtool_close()
        teacher.kdtool_close()


def check_signal(signal: Signal, batch: Batch, want: SignalRequest, tokenizer: Tokenizer) -> None:
    """Assert that a signal contains exactly the kinds requested, in the right shapes."""
    import torch

    count = int((batch.labels != -100).sum())
    rows, length = batch.labels.shape
    assert signal.fingerprint
    assert (signal.lazy is not None) == ("logits" in want.kinds)
    if signal.lazy is not None:
        head = signal.lazy.head
        assert signal.lazy.hidden.shape == (count, head.weight.shape[1])
        assert tokenizer.vocabulary <= head.vocabulary <= head.weight.shape[0]
        assert logits_of(signal.lazy.hidden, head).isfinite().all()
    assert (signal.chosen is not None) == ("chosen" in want.kinds)
    if signal.chosen is not None:
        check_chosen_tokens(signal.chosen, want)
    assert (signal.sparse is not None) == bool(want.kinds & {"sampled", "top-k"})
    if signal.sparse is not None:
        check_sparse(signal.sparse, count, want, tokenizer.vocabulary)
    assert set(signal.hidden) == (set(want.layers) if "hidden" in want.kinds else set())
    for states in signal.hidden.values():
        assert states.ndim == 2
        assert len(states) == count
        assert states.isfinite().all()
    assert set(signal.attentions) == (set(want.layers) if "attentions" in want.kinds else set())
    for maps in signal.attentions.values():
        assert maps.shape[0] == rows
        assert maps.shape[2:] == (length, length)
        assert (maps >= 0).all()
        same = (batch.document[:, :, None] == batch.document[:, None, :]) & (batch.document >= 0)[:, :, None]
        seen = same & torch.ones(length, length, dtype=torch.bool).tril()
        sums = maps.float().cpu().masked_fill(~seen[:, None], 0).sum(-1)
        real = (batch.document >= 0)[:, None].expand_as(sums)
        assert (sums[real] - 1).abs().max() < 0.02, "attention is causal, within documents, and sums to 1"
    assert set(signal.projections) == (set(want.layers) if "projections" in want.kinds else set())
    for projections in signal.projections.values():
        for heads in projections:
            assert heads.ndim == 3
            assert heads.shape[:2] == (rows, length), "of all positions, heads side by side"
            assert heads.isfinite().all()


def check_sparse(sparse: SparseTokens, count: int, want: SignalRequest, vocabulary: int) -> None:
    """Assert that kept tokens are padded and weighed as their form demands."""
    import torch

    assert sparse.ids.shape == sparse.weights.shape
    assert len(sparse.ids) == count
    assert sparse.ids.dtype == torch.int32
    assert sparse.weights.dtype == torch.float32
    assert sparse.form in want.kinds
    assert sparse.temperature == want.temperature
    assert ((sparse.ids >= -1) & (sparse.ids < vocabulary)).all()
    assert (sparse.weights[sparse.ids < 0] == 0).all()
    sums = sparse.weights.sum(-1)
    assert (sums <= 1 + 1e-4).all()
    assert sparse.form == "top-k" or ((sums - 1).abs() < 1e-4).all()


def check_chosen_tokens(chosen: ChosenTokens, want: SignalRequest) -> None:
    """Assert that log-probabilities are of the requested ids, and padded as these are."""
    assert chosen.temperature == want.temperature
    assert want.chosen is not None
    assert (chosen.ids == want.chosen).all()
    assert chosen.log_probabilities.shape == chosen.ids.shape
    assert (chosen.log_probabilities[chosen.ids < 0] == 0).all()
    assert (chosen.log_probabilities <= 0).all()


def _scores(teacher: Any, run: RunInfo) -> list[float]:
    """Return the log-likelihoods of a few texts under the teacher's current weights."""
    with teacher.kdtool_open(run, Subject("teacher", "teacher")) as runtime:
        return [score.log_likelihood for score in runtime.score(TEXTS)]


def _train(model: LanguageModel) -> Tensor:
    """Change all learning parameters, and return the logits afterwards."""
    import torch

    learning = [parameter for parameter in model.model.parameters() if parameter.requires_grad]
    assert learning, "no parameter learns"
    with torch.no_grad():
        for parameter in learning:
            parameter.mul_(1.25)
    return compute_logits(model, batch_of(pack_rows(model.tokenizer)))


def _requests(teacher: Any) -> list[frozenset[SignalKind]]:
    """Return the kinds to request: each kind of token signal by itself, and every two that go together."""
    kinds = sorted(teacher.offers - {"text"})
    pairs = [frozenset(pair) for pair in combinations(kinds, 2) if set(pair) != {"sampled", "top-k"}]
    return [*(frozenset({kind}) for kind in kinds), *pairs]


def _ask(teacher: Any, kinds: frozenset[SignalKind], rows: list[Row]) -> Signal:
    batch = batch_of(rows)
    signal: Signal = teacher.kdtool_signal(batch, _want(kinds, batch))
    return signal


def _want(kinds: frozenset[SignalKind], batch: Batch) -> SignalRequest:
    """Return a request for a batch; the tokens chosen at a position are its label, its input, and padding."""
    if "chosen" not in kinds:
        return SignalRequest(kinds, (LAYER,))
    labelled = batch.labels != -100
    ids = batch.labels.new_full((int(labelled.sum()), 3), -1)
    ids[:, 0], ids[:, 1] = batch.labels[labelled], batch.input_ids[labelled]
    return SignalRequest(kinds, (LAYER,), chosen=ids.int())


def _without_labels(rows: list[Row]) -> list[Row]:
    return [replace(row, labelled=[False] * len(row.labelled)) for row in rows[:2]]


def _with(row: Row, ids: list[int]) -> Row:
    return replace(row, input_ids=ids)


def _tensors(signal: Signal) -> list[Tensor]:
    lazy = [signal.lazy.hidden, signal.lazy.head.weight] if signal.lazy else []
    sparse = [signal.sparse.ids, signal.sparse.weights] if signal.sparse else []
    chosen = [signal.chosen.ids, signal.chosen.log_probabilities] if signal.chosen else []
    return [*lazy, *sparse, *chosen, *_inside(signal)]


def _parts(signal: Signal) -> list[Tensor]:
    """Return what belongs to positions or rows, in comparable form."""
    parts = [signal.chosen.log_probabilities] if signal.chosen else []
    if signal.lazy:
        parts.append(logits_of(signal.lazy.hidden, signal.lazy.head))
    if signal.sparse:
        parts.append(signal.sparse.weights.sort(-1, descending=True).values)
    return [*parts, *_inside(signal)]


def _inside(signal: Signal) -> list[Tensor]:
    projections = chain.from_iterable(signal.projections.values())
    return [*signal.hidden.values(), *signal.attentions.values(), *projections]


def _agree(together: Tensor, alone: list[Tensor]) -> None:
    import torch

    close(
        together.float().cpu(), torch.cat(alone).float().cpu(), "a row's signal depends on the other rows of its batch"
    )
