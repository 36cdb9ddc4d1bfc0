"""The packer: its suite, nothing lost between documents and rows, what is learned, and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_essentials.packed import Packed
from kdtool_testing import ByteTokenizer, PackerConformance, make_run
from packing import END, PREFIX, SUFFIX, Infilling, documents_of, text_of


class TestPacked(PackerConformance):
    component = Packed
    entry_point = "packed"
    settings: ClassVar = {"length": 64}


def rows(
    examples: list[kdtool.Example], tokenizer: kdtool.Tokenizer | None = None, **settings: Any
) -> list[kdtool.Row]:
    packer = Packed(Packed.Config(**settings))
    return list(packer.kdtool_rows(make_run(Path()), examples, tokenizer or ByteTokenizer()))


class Marked(Infilling):
    """Bytes with FIM tokens, and a template that writes [role]content| and refuses the role "tool"."""

    vocabulary = 261
    MARK = 260
    chat_fingerprint = "brackets"

    def encode_chat(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]] | None:
        ids: list[int] = []
        labelled: list[bool] = []
        for role, content in turns:
            if role == "tool":
                raise kdtool.UsageError("the chat template refuses turns of tool")
            head, own = [*f"[{role}]".encode()], [*content.encode(), self.MARK]
            ids += [*head, *own]
            labelled += [False] * len(head) + [role == "assistant"] * len(own)
        return ids, labelled


def texts(*bodies: str) -> list[kdtool.Example]:
    return [kdtool.Example(f"e{i}", kdtool.Text(body)) for i, body in enumerate(bodies)]


@given(st.lists(st.text(max_size=40), max_size=12), st.integers(2, 30))
def test_documents_are_cut_and_nothing_is_lost(bodies: list[str], length: int) -> None:
    stream = [(i, token) for i, body in enumerate(bodies) if body for token in (*body.encode(), END)]
    expected = []
    for start in range(0, len(stream), length):
        piece = stream[start : start + length]
        numbers = [number for number, _ in piece]
        if any(before == after for before, after in pairwise(numbers)):
            order = sorted(set(numbers))
            expected.append([(order.index(number), token) for number, token in piece])
    found = [list(zip(row.document, row.input_ids, strict=True)) for row in rows(texts(*bodies), length=length)]
    assert [[(number, token) for number, token in row if number >= 0] for row in found] == expected
    assert all(len(row) == length for row in found)


def test_conversations_follow_the_documented_template() -> None:
    talk = kdtool.Messages((("user", "hi"), ("assistant", "yes")))
    (row,) = rows([kdtool.Example("m", talk)], length=40)
    real = [token for token, number in zip(row.input_ids, row.document, strict=True) if number >= 0]
    assert bytes(real[:-1]).decode() == "### user\nhi\n\n### assistant\nyes"
    assert bytes(t for t, learned in zip(real[:-1], row.labelled, strict=False) if learned) == b"yes"
    assert (real[-1], row.labelled[len(real) - 1]) == (END, True)


def test_rows_without_anything_to_learn_are_left_out() -> None:
    long_prompt = kdtool.Example("c", kdtool.Completion("p" * 20, "c"))
    found = rows([long_prompt], length=8)
    assert len(found) == 1
    assert rows([kdtool.Example("m", kdtool.Messages((("user", "hello there"),)))], length=8) == []


def test_a_limit_takes_whole_rows_from_the_start() -> None:
    examples = texts("x = 1\n" * 50)
    limited = rows(examples, length=10, maximum_tokens=39)
    assert limited == rows(examples, length=10)[:3]
    with pytest.raises(pydantic.ValidationError, match="less than one row"):
        Packed.Config(length=10, maximum_tokens=9)


@given(st.text(min_size=1, max_size=60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_text_is_whole_wherever_it_was_cut(body: str, rate: float, spm_rate: float, seed: int) -> None:
    fim = {"rate": rate, "spm_rate": spm_rate, "seed": seed}
    (row,) = rows(texts(body), Marked(), length=300, fim=fim)
    assert (row,) == tuple(rows(texts(body), Marked(), length=300, fim=fim))
    assert all(learned == (number >= 0) for learned, number in zip(row.labelled, row.document, strict=True))
    (document,) = documents_of([row])
    assert text_of([token for token, _ in document]) == body
    assert (row.input_ids[0] == PREFIX) == (rate == 1) or 0 < rate < 1


def test_rates_and_cuts_follow_the_id_and_the_seed() -> None:
    examples = texts(*("x = 1\n" * 9 for _ in range(400)))

    def cut(**fim: float) -> list[list[int]]:
        packer = Packed(Packed.Config.model_validate({"fim": fim, "length": 64}))
        each = (packer.kdtool_rows(make_run(Path()), [example], Marked()) for example in examples)
        return [list(row.input_ids) for found in each for row in found]

    found = cut(rate=0.3, spm_rate=0.5)
    marked = [ids for ids in found if ids[0] == PREFIX]
    assert len(marked) == pytest.approx(120, abs=30)
    assert sum(ids[1] == SUFFIX for ids in marked) == pytest.approx(60, abs=25)
    assert len({ids.index(SUFFIX) for ids in marked if ids[1] != SUFFIX}) > 20, "cuts lie anywhere"
    assert found == cut(rate=0.3, spm_rate=0.5)
    assert found != cut(rate=0.3, spm_rate=0.5, seed=1)
    assert not any(ids[0] == PREFIX for ids in cut(rate=0.0))
    wider = cut(rate=0.6, spm_rate=0.5)
    assert all(ids == more for ids, more in zip(found, wider, strict=True) if ids[0] == PREFIX), "more, not others"


def test_only_plain_text_without_marks_is_cut() -> None:
    pair, talk = kdtool.Completion("ab", "cd"), kdtool.Messages((("user", "hi"), ("assistant", "yes")))
    for body in (pair, talk, kdtool.Text("a <marked> text")):
        example = kdtool.Example("e", body)
        assert rows([example], Marked(), length=40, fim={"rate": 1.0}) == rows([example], Marked(), length=40)


def test_gaps_without_marks_are_refused_before_there_is_an_example() -> None:
    with pytest.raises(kdtool.UsageError, match=r"rows\.fim: .* lacks tokens .* remove `fim`"):
        rows([], fim={})


def test_conversations_follow_the_tokenizer_s_template_where_it_has_one() -> None:
    talk = kdtool.Example("m", kdtool.Messages((("user", "hi"), ("assistant", "yes"))))
    (row,) = rows([talk], Marked(), length=40)
    assert bytes(token for token in row.input_ids if token < END) == b"[user]hi[assistant]yes"
    learned = [token for token, taught in zip(row.input_ids, row.labelled, strict=True) if taught]
    assert learned == [*b"yes", Marked.MARK]
    assert rows([talk], Marked(), length=40, conversations="plain") == rows([talk], length=40)


def test_a_conversation_that_the_template_refuses_is_named_with_the_way_out() -> None:
    talk = kdtool.Example("chat-7", kdtool.Messages((("tool", "hi"), ("assistant", "yes"))))
    with pytest.raises(kdtool.UsageError, match=r"'chat-7': .* refuses turns of tool; .*`rows.conversations: plain`"):
        rows([talk], Marked(), length=40)
    assert rows([talk], Marked(), length=40, conversations="plain")
