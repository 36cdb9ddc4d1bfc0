"""The teacher `routed`: each document's signal is that of its teacher, who is asked about no other rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdtool_teacher_routed import Routed
from kdtool_testing import TeacherConformance, make_run
from kdtool_torch import collate
from kdtool_transformers import byte_tokenizer

ROUTES = {"teachers.one": ["python"], "teachers.two": ["rust", "c"], "teachers.three": ["*"]}
KINDS: tuple[kdtool.SignalKind, ...] = ("logits", "top-k", "chosen")
SIZE = 257


class Table(kdtool.Teacher):
    """Logits of random states of the previous token, in a vocabulary of bytes; notes the rows that it is asked about."""

    offers = frozenset({"logits", "top-k", "chosen"})

    def __init__(self, seed: int, width: int, bias: bool = False, scale: float = 1.0) -> None:
        super().__init__(self.Config())
        generator = torch.Generator().manual_seed(seed)
        self.states = torch.randn(SIZE, width, generator=generator)
        weight, offset = torch.randn(SIZE, width, generator=generator), torch.randn(SIZE, generator=generator)
        self.head = kdtool.Head(weight, SIZE, offset if bias else None, scale)
        self.seed, self.kept, self.asked = seed, 2 + seed, list[tuple[str, ...]]()

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return byte_tokenizer("llama")

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        self.asked.append(batch.row_keys)
        states = self.states[batch.input_ids[batch.labels != -100]]
        logs = self.head.logits(states).log_softmax(-1)
        weights, ids = logs.exp().topk(self.kept)
        kinds, known = want.kinds, want.chosen
        return kdtool.Signal(
            f"table {self.seed}",
            kdtool.LazyLogits(states, self.head) if "logits" in kinds else None,
            kdtool.SparseTokens(ids.int(), weights, "top-k", 1.0) if "top-k" in kinds else None,
            chosen=None if known is None else kdtool.ChosenTokens(known, _at(logs, known), 1.0),
        )


def _at(logs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return logs.gather(1, ids.long().clamp(min=0)).masked_fill(ids < 0, 0)


def make_tables() -> dict[str, Table]:
    """Return three teachers of different widths, one with a bias, one with a scale."""
    tables = (Table(1, 5), Table(2, 9, bias=True), Table(3, 4, scale=0.5))
    return dict(zip(ROUTES, tables, strict=True))


def build(**settings: Any) -> Routed:
    return Routed(Routed.Config.model_validate({"teachers": ROUTES, "signals": KINDS, **settings}))


class TestRouted(TeacherConformance):
    component = Routed
    entry_point = "routed"
    settings: ClassVar[Mapping[str, Any]] = {"teachers": ROUTES, "signals": [*KINDS]}
    columns: ClassVar[Mapping[str, int]] = {"teacher": 4}

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        tables = make_tables()
        for table in tables.values():
            table.kept = 3
        return tables

    def ready(self, run: kdtool.RunInfo) -> Any:
        teacher = super().ready(run)
        teacher.kdtool_tokenizer(run)
        return teacher


@st.composite
def batches(draw: st.DrawFn) -> kdtool.Batch:
    """Return a batch of rows with several documents; the token that ends a document has no text, so no number."""
    length, rows = 12, list[kdtool.Row]()
    for row in range(draw(st.integers(1, 4))):
        cuts = draw(st.sets(st.integers(1, length - 1), max_size=3))
        document = [sum(cut <= at for cut in cuts) for at in range(length)]
        numbers = draw(st.lists(st.integers(1, 3), min_size=4, max_size=4))
        column = [0 if at + 1 in {*cuts, length} else numbers[document[at]] for at in range(length)]
        ids = draw(st.lists(st.integers(0, SIZE - 1), min_size=length, max_size=length))
        labelled = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        rows.append(kdtool.Row(f"row {row}", ids, labelled, document, {"teacher": column}))
    return collate(rows)


def numbers_at_labels(batch: kdtool.Batch) -> tuple[torch.Tensor, list[set[int]]]:
    """Return the number of each label's teacher, and the numbers in each row; plainly, document by document."""
    found, of_rows = list[int](), list[set[int]]()
    for labels, document, column in zip(batch.labels, batch.document, batch.columns["teacher"], strict=True):
        places = (labels != -100).nonzero().flatten().tolist()
        of_row = [max(1, int(column[document == document[at]].max())) for at in places]
        found += of_row
        of_rows.append({*of_row})
    return torch.tensor(found, dtype=torch.int64), of_rows


@given(batches())
def test_each_position_has_the_signal_of_its_document_s_teacher(batch: kdtool.Batch) -> None:
    tables, teacher = make_tables(), build()
    teacher.kdtool_tokenizer(make_run(Path(), tables))
    labelled, (numbers, of_rows) = batch.labels != -100, numbers_at_labels(batch)
    inputs = batch.input_ids[labelled]
    chosen = torch.stack([batch.labels[labelled], inputs], 1).int()
    signal = teacher.kdtool_signal(batch, kdtool.SignalRequest(frozenset(KINDS), chosen=chosen))
    assert signal.lazy is not None
    assert signal.sparse is not None
    assert signal.chosen is not None
    logits = signal.lazy.head.logits(signal.lazy.hidden)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    for number, table in enumerate(tables.values(), 1):
        mine, count = numbers == number, table.kept
        asked = tuple(key for key, of_row in zip(batch.row_keys, of_rows, strict=True) if number in of_row)
        if not len(numbers):
            continue
        assert table.asked == ([asked] if asked else []), "about rows with one of its documents only"
        if not asked:
            continue
        expected = table.head.logits(table.states[inputs[mine]])
        close(logits[mine], expected)
        logs = expected.log_softmax(-1)
        close(signal.chosen.log_probabilities[mine], _at(logs, chosen[mine]))
        weights, ids = logs.exp().topk(count)
        close(signal.sparse.weights[mine][:, :count], weights)
        assert (signal.sparse.ids[mine][:, :count] == ids).all()
        assert (signal.sparse.ids[mine][:, count:] == -1).all()


def examples(*values: str) -> list[kdtool.Example]:
    return [kdtool.Example(str(at), kdtool.Text("ab"), language=value) for at, value in enumerate(values)]


def refusal(teacher: Routed, text: Sequence[kdtool.Example]) -> str:

    class Packer(kdtool.Packer):
        def kdtool_rows(self, run: kdtool.RunInfo, examples: Any, tokenizer: kdtool.Tokenizer) -> Iterator[kdtool.Row]:
            for example in examples:
                teacher.kdtool_annotate(example)
                yield kdtool.Row(example.id, [1], [True], [0])

    run = make_run(Path(), {"rows": Packer(Packer.Config()), "teachers.routed": teacher})
    rows = run.component("rows", kdtool.Packer).kdtool_rows(run, text, byte_tokenizer("llama"))
    assert next(rows).key == "0"
    with pytest.raises(kdtool.UsageError) as caught:
        list(rows)
    return str(caught.value)


def test_unknown_values_and_columns_are_refused_together() -> None:
    routes = {"teachers.one": ["python", "perl"], "teachers.two": ["rust"]}
    text = refusal(build(teachers=routes), examples("python", "go", "", "go", "python"))
    assert "teachers: no teacher has the values 'go' (2 documents), '' (1 document) of 'language'; add them" in text
    assert "; teachers.teachers.one: no document has the values 'perl' of 'language'" in text
    assert "; teachers.teachers.two: no document has the values 'rust' of 'language'; there are 'python', 'go'" in text
    unknown = build(teachers=routes, column="topic")
    about = [kdtool.Example("0", kdtool.Text("ab"), meta={"subject": "web"})]
    assert refusal(unknown, about) == (
        "column: no document has a value of 'topic'; name one of language, source, licence, subject"
    )


def test_others_have_a_teacher_of_their_own_and_each_value_one() -> None:
    teacher = build()
    numbers = [teacher.kdtool_annotate(example)["teacher"][0] for example in examples("python", "c", "go", "")]
    assert numbers == [1, 2, 3, 3]
    with pytest.raises(ValueError, match=r"several teachers teach 'c' \(teachers.one and teachers.two\); name one"):
        build(teachers={"teachers.one": ["c"], "teachers.two": ["c", "rust"]})


def test_signals_that_a_teacher_lacks_are_named(tmp_path: Path) -> None:
    tables = make_tables()
    tables["teachers.two"].offers = frozenset({"logits"})
    assert build().kdtool_check(make_run(tmp_path, tables), "start") == [
        "signals: teachers.two does not offer chosen, top-k; it offers logits"
    ]


def test_teachers_that_cap_logits_differently_are_not_joined() -> None:
    tables, teacher = make_tables(), build(signals=["logits"])
    tables["teachers.two"].head = replace(tables["teachers.two"].head, soft_cap=30.0)
    teacher.kdtool_tokenizer(make_run(Path(), tables))
    rows = [kdtool.Row(str(at), [1, 2], [True, True], [0, 0], {"teacher": [at, at]}) for at in (1, 2)]
    with pytest.raises(kdtool.UsageError, match=r"one not, teachers\.two at 30"):
        teacher.kdtool_signal(collate(rows), kdtool.SignalRequest(frozenset({"logits"})))
