"""The packer: its suite, nothing lost between documents and rows, what is learned, and the limit.

The start of documents: nothing of a text is lost behind the start, and it stands there once, whoever writes it.

Documents longer than a row: a middle keeps its prefix and suffix, an answer its prompt, and every label stays once.
"""

from __future__ import annotations

from collections import Counter
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
from kdtool_testing.toy import StartedTokenizer
from packing import END, MIDDLE, PREFIX, SUFFIX, Infilling, Tokens, documents_of, pack, text_of


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

    def encode_chat(
        self, turns: Sequence[tuple[str, str]], detailed: kdtool.DetailedMessages | None = None
    ) -> tuple[list[int], list[bool]] | None:
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


ASKED = (("user", "hi"), ("assistant", "no"), ("user", "what"), ("assistant", "yes"))


class Written(ByteTokenizer):
    """Reads `<|end|>` as the end of text where control tokens count."""

    def encode_template(self, text: str, before: str = "") -> list[int]:
        parts = text.split("<|end|>")
        return [token for part in parts for token in [*part.encode(), END]][:-1]


@pytest.mark.parametrize(
    ("reads", "expected"),
    [(False, b"a<|end|>b<|end|>.c<|end|>d.### user\n<|end|>"), (True, b"a.b.c.d.### user\n<|end|>")],
)
def test_control_tokens_in_texts_count_if_asked_for(reads: bool, expected: bytes) -> None:
    bodies = [kdtool.Text("a<|end|>b<|end|>"), kdtool.Completion("c<|end|>", "d")]
    asked = kdtool.Messages((("user", "<|end|>"), ("assistant", "y")))
    rows, _ = pack([*bodies, asked], Written(), length=128, control_tokens=reads)
    assert bytes(46 if token == END else token for token in rows[0].input_ids).startswith(expected)


def test_turns_without_a_weight_are_not_learned() -> None:
    talk = kdtool.DetailedMessages(ASKED, ({}, {"weight": 0}, {}, {}))
    (row,) = rows([kdtool.Example("m", talk)], length=80)
    assert [token for token, learned in zip(row.input_ids, row.labelled, strict=True) if learned] == [*b"yes", END]
    silent = kdtool.DetailedMessages(ASKED[:2], ({}, {"weight": 0}))
    assert rows([kdtool.Example("m", silent)], length=80) == []


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("detail", [{"tool_calls": [{}]}, {"reasoning_content": "so"}, {}])
def test_what_only_a_template_can_write_is_not_lost(detail: dict[str, Any], answered: bool) -> None:
    turns = ASKED if answered else ASKED[:3]
    talk = kdtool.DetailedMessages(turns, ({}, detail, {}, {})[: len(turns)], () if detail else ({"type": "function"},))
    with pytest.raises(kdtool.UsageError, match="example 'm': only a chat template can write tools, tool calls"):
        rows([kdtool.Example("m", talk)], length=80, room=8)


START = 257


class Begun(ByteTokenizer):
    """Bytes behind a start; FIM tokens, and a template that writes the start itself."""

    vocabulary = 260
    document_start: tuple[int, ...] = (START,)
    chat_fingerprint = "begun"
    PREFIX, REST = 258, 259

    def encode_chat(
        self, turns: Sequence[tuple[str, str]], detailed: kdtool.DetailedMessages | None = None
    ) -> tuple[list[int], list[bool]] | None:
        learned = [(byte, role == "assistant") for role, content in turns for byte in (*content.encode(), END)]
        return [START, *(byte for byte, _ in learned)], [False, *(each for _, each in learned)]

    def encode_infilling(self, before: str, middle: str, after: str, suffix_first: bool) -> list[int] | None:
        return [self.PREFIX, *before.encode(), self.REST, *after.encode(), self.REST, *middle.encode(), END]


class Twice(Begun):
    document_start = (START, START + 1)


@pytest.mark.parametrize("tokenizer", [Begun(), Twice()])
@given(bodies=st.lists(st.text("abc", min_size=1, max_size=30), max_size=9), length=st.integers(5, 24))
def test_each_document_begins_and_no_token_of_a_text_is_lost(
    bodies: list[str], length: int, tokenizer: kdtool.Tokenizer
) -> None:
    rows, _ = pack([kdtool.Text(body) for body in bodies], tokenizer, length=length)
    start = list(tokenizer.document_start)
    assert all(len(row.input_ids) == length for row in rows)
    text, first_learned, begins = list[int](), list[bool](), [True]
    for document in documents_of(rows):
        ids, learned = [token for token, _ in document], [each for _, each in document]
        assert ids[: len(start)] == start
        assert ids.count(START) == 1
        assert len(ids) > len(start), "something stands behind a start"
        assert not any(learned[: len(start)])
        assert all(learned[len(start) + 1 :])
        first_learned.append(learned[len(start)])
        begins.append(ids[-1] == END)
        text += ids[len(start) :]
    whole = [token for body in bodies for token in (*body.encode(), END)]
    left = iter(whole)
    assert all(token in left for token in text), "in their order"
    if len(text) == len(whole):  # no row was left out, in which nothing is learned
        assert first_learned == begins[:-1], "a continued document does not learn its first token: no text begins there"


def test_what_is_learned_with_a_prompt_a_template_and_a_gap() -> None:
    talk = kdtool.Messages((("user", "a"), ("assistant", "b")))
    bodies = [kdtool.Completion("a", "b"), talk, kdtool.Text("ab")]
    found = documents_of(pack(bodies, Begun(), length=64, fim={"rate": 1.0})[0])
    assert found[0] == [(START, False), (97, False), (98, True), (END, True)]
    assert found[1] == [(START, False), (97, False), (END, False), (98, True), (END, True)], "the template's own start"
    assert [token for token, _ in found[2]][:2] == [START, Begun.PREFIX], "as Code Llama's infilling is written"
    assert [learned for _, learned in found[2]] == [False, *[True] * 6]


def test_rows_without_room_behind_a_start_are_refused() -> None:
    with pytest.raises(kdtool.UsageError, match=r"rows.length: a row of 2 tokens has no room after the 2 "):
        pack([], Twice(), length=2)


@given(
    st.lists(st.text(st.sampled_from("ab\né漢\U0001f600"), max_size=60), max_size=6),
    st.integers(8, 40),
    st.floats(0, 1),
)
def test_every_middle_is_in_a_row_with_its_prefix_and_suffix(bodies: list[str], length: int, spm_rate: float) -> None:
    fim = {"rate": 1.0, "spm_rate": spm_rate}
    rows, _ = pack(list(map(kdtool.Text, bodies)), Infilling(), length=length, fim=fim)
    documents = documents_of(rows)
    assert all(len(row.input_ids) == length for row in rows)
    assert "".join(text_of([token for token, _ in document]) for document in documents) == "".join(bodies)
    assert all(labelled for document in documents for _, labelled in document)


def test_the_middle_of_a_line_ends_where_the_line_ends() -> None:
    body = "".join(f"line {number} of a text\n" for number in range(200))
    fim = {"rate": 1.0, "spm_rate": 0.0, "line_rate": 1.0}
    rows, _ = pack([kdtool.Text(body)], Infilling(), length=96, fim=fim)
    documents = documents_of(rows)
    assert "".join(text_of([token for token, _ in document]) for document in documents) == body
    for document in documents:
        ids = [token for token, _ in document]
        middle = bytes(ids[ids.index(MIDDLE) + 1 : -1]).decode()
        suffix = bytes(ids[ids.index(SUFFIX) + 1 : ids.index(MIDDLE)]).decode()
        assert "\n" not in middle
        assert not suffix or suffix.startswith("\n")
    assert len({len(document) for document in documents}) > 1


def test_a_row_without_room_for_fim_tokens_holds_plain_text() -> None:
    rows, _ = pack([kdtool.Text("abcdef")], Infilling(), length=4, fim={"rate": 1.0})
    documents = documents_of(rows)
    assert [[token for token, _ in document] for document in documents] == [[97, 98, 99, 100], [101, 102, END]]


def learned_pairs(documents: Sequence[Tokens]) -> list[tuple[int, int]]:
    """Return each labelled token with the token before it."""
    return [
        (before, token) for document in documents for (before, _), (token, labelled) in pairwise(document) if labelled
    ]


TEXTS = st.text("abc", min_size=1, max_size=40)
TURNS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4).map(
    lambda pairs: kdtool.Messages(
        tuple(turn for asked, said in pairs for turn in (("user", asked), ("assistant", said)))
    )
)
PROMPTS = st.builds(kdtool.Completion, TEXTS, TEXTS)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), StartedTokenizer()])
@given(bodies=st.lists(st.one_of(PROMPTS, TURNS), max_size=5), length=st.integers(3, 80))
def test_every_labelled_token_is_learned_once_after_the_same_token(
    bodies: list[Any], length: int, tokenizer: kdtool.Tokenizer
) -> None:
    rows, _ = pack(bodies, tokenizer, length=length)
    documents = documents_of(rows)
    all_rows, said = pack(bodies, tokenizer, length=4096)
    whole = documents_of(all_rows)
    assert all(len(row.input_ids) == length for row in rows)
    assert learned_pairs(documents) == learned_pairs(whole)
    assert not said
    fitting = Counter(tuple(document) for document in whole if len(document) <= length)
    assert fitting <= Counter(map(tuple, documents)), (
        "what fits into a row is whole"
    )  # a piece may equal another document


@given(TEXTS, TEXTS, st.integers(4, 60), st.text("d", max_size=9))
def test_each_part_of_an_answer_follows_the_end_of_its_prompt(
    prompt: str, answer: str, length: int, first: str
) -> None:
    bodies = [kdtool.Text(first), kdtool.Completion(prompt, answer)]
    rows, said = pack(bodies, ByteTokenizer(), length=length)
    documents = documents_of(rows)
    parts = [document for document in documents if not all(labelled for _, labelled in document)]
    whole = len(prompt) + len(answer) + 1 <= length
    kept = prompt if whole else prompt[-(length // 2) :]
    assert said == [] if whole else "too long for one row: 1 prompt with the answer, such as 'e1';" in said[0]
    done = 0
    for part in parts:
        context = [token for token, labelled in part if not labelled]
        learned = [token for token, labelled in part if labelled]
        assert bytes(context).decode() == kept + answer[done - 1 : done] * (done > 0)
        done += len(learned)
