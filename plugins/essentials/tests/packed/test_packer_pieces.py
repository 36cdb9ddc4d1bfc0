"""Documents longer than a row: a middle keeps its prefix and suffix, an answer its prompt, and every label stays once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_testing import ByteTokenizer
from kdtool_testing.toy import StartedTokenizer
from packing import END, MIDDLE, SUFFIX, Infilling, Tokens, documents_of, pack, text_of


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


def test_pieces_of_a_text_fill_their_rows_and_have_cuts_of_their_own() -> None:
    rows, _ = pack([kdtool.Text("abcdefgh" * 400)], Infilling(), length=64, fim={"rate": 1.0})
    documents = documents_of(rows)
    assert all(number >= 0 for row in rows[:-1] for number in row.document), "bytes leave no room"
    cuts = {tuple(document.index((mark, True)) for mark in (SUFFIX, MIDDLE)) for document in documents}
    assert len(cuts) > len(documents) // 2
    orders = [document[1] == (SUFFIX, True) for document in documents]
    assert 0.3 < sum(orders) / len(orders) < 0.7


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
    assert said == [] if whole else "1 prompts with their answers, such as 'e1', are longer than a row" in said[0]
    done = 0
    for part in parts:
        context = [token for token, labelled in part if not labelled]
        learned = [token for token, labelled in part if labelled]
        assert bytes(context).decode() == kept + answer[done - 1 : done] * (done > 0)
        done += len(learned)
