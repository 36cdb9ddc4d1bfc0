"""Vocabularies compared, and what a recipe is told where they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._cli import call
from kdtool._run.stages.terms import refuse_other_templates
from kdtool_testing import ByteTokenizer
from toy import Bytes
from variants import variant


class Named(Bytes):
    """A tokenizer that is nothing but its tokens."""

    def __init__(self, tokens: list[str], fingerprint: str = "") -> None:
        self.names = tokens
        self.vocabulary = len(tokens)
        self.fingerprint = fingerprint or repr(tokens)

    def tokens(self) -> list[str]:
        return self.names


_TOKENS = st.lists(st.text(max_size=3), min_size=1, max_size=12)


@given(first=_TOKENS, second=_TOKENS)
def test_shared_tokens_are_the_common_beginning(first: list[str], second: list[str]) -> None:
    found = kdtool.Vocabularies.compare(Named(first, "a"), Named(second, "b"))
    common = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    assert found.sizes == (len(first), len(second))
    assert found.comparable == (common is None)
    assert found.shared == (min(len(first), len(second)) if common is None else common)
    assert (found.relation == "tokens") == (first == second)
    assert (found.relation == "prefix") == (common is None and first != second)
    assert [(first[i], second[i]) for i, _, _ in found.differing] == [(own, other) for _, own, other in found.differing]
    back = kdtool.Vocabularies.compare(Named(second, "b"), Named(first, "a"))
    assert (back.relation, back.shared) == (found.relation, found.shared)


class Halves(Named):
    """Splits otherwise than bytes do."""

    def encode(self, text: str) -> list[int]:
        return [half for byte in text.encode() for half in divmod(byte, 16)]


def test_same_beginning_with_other_ways_to_split_is_no_prefix() -> None:
    names = [str(number) for number in range(260)]
    found = kdtool.Vocabularies.compare(Named(names[:258]), Halves(names))
    assert (found.relation, found.shared, found.comparable) == ("different", 258, False)
    assert found.sentence("a", "b") == (
        "a has 258 tokens and b 260; the first 258 are the same, but they split texts differently"
    )
    assert kdtool.Vocabularies.compare(Named(names), Halves(names, "halves")).relation == "tokens"


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (
            "Foreign",
            ["the student has 257 tokens and teacher 257", "0 is '<00>' and '<end>'",
             "a loss that works across vocabularies"],
        ),
        (
            "Begun",
            ["teacher begins documents with '<end>', and the student with no token",
             "inherits the teacher's tokenizer"],
        ),
    ],
)  # fmt: skip
def test_loss_on_other_tokens_is_refused_with_its_place_before_anything_is_made(
    recipe: dict[str, Any], teacher: str, words: list[str]
) -> None:
    recipe["teacher"] = variant(teacher)
    for way in (kdtool.run, kdtool.check, kdtool.plan):
        with pytest.raises(kdtool.RecipeError, match=r"train\.losses\.imitate: compares token by token") as refused:
            way(recipe)
        assert all(word in str(refused.value) for word in words)
    assert not list(Path("store").glob("text*/*"))


def test_foreign_teacher_may_stand_beside_where_nothing_learns_from_it(recipe: dict[str, Any]) -> None:
    recipe |= {"teacher": variant("Foreign"), "signals": False}
    recipe["train"]["losses"]["imitate"] = False
    assert kdtool.check(recipe)["vocabularies"] == {}


def test_verdict_is_checked_and_printed(
    recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (verdict,) = kdtool.check(recipe)["vocabularies"].values()
    assert verdict["relation"] == "same"
    recipe |= {"teacher": variant("Going"), "signals": False}
    (verdict,) = kdtool.check(recipe)["vocabularies"].values()
    assert (verdict["relation"], verdict["sizes"], verdict["shared"]) == ("prefix", [257, 260], 257)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", str(tmp_path / "r.yaml")]) == 0
    assert (
        "vocabularies: the student has 257 tokens and teacher 260; the first 257 are the same"
        in capsys.readouterr().out
    )


class Marked(ByteTokenizer):
    """Writes conversations with a mark of its template."""

    def __init__(self, mark: str) -> None:
        self.chat_fingerprint = mark


def render(example: kdtool.Example, tokenizer: kdtool.Tokenizer) -> Iterator[kdtool.Row]:
    if isinstance(example.body, kdtool.Messages) and example.body.turns[0][1]:
        ids = tokenizer.encode(tokenizer.chat_fingerprint[0] + example.body.turns[0][1])
        yield kdtool.Row(example.id, ids, [True] * len(ids), [0] * len(ids))


TEXT = kdtool.Example("text", kdtool.Text("x = 1"), "train")
EMPTY = kdtool.Example("empty", kdtool.Messages((("user", ""),)), "train")
TALK = kdtool.Example("talk", kdtool.Messages((("user", "hello"), ("assistant", "hi"))), "train")


def test_only_conversations_with_other_tokens_are_refused_with_the_teacher() -> None:
    others = {"teacher": Marked("a2")}  # another template, which renders the same
    examples = [TEXT, EMPTY, TALK, TALK]
    assert list(refuse_other_templates(examples, Marked("a1"), others, render)) == examples
    assert list(refuse_other_templates([TEXT], Marked("a"), {"teacher": Marked("b")}, render)) == [TEXT]
    others = {"teachers.good": Marked("a2"), "teachers.bad": Marked("b")}
    checked = refuse_other_templates([TEXT, EMPTY, TALK], Marked("a1"), others, render)
    with pytest.raises(kdtool.UsageError, match=r"'talk' has other tokens .* of teachers\.bad .*conversations: plain"):
        list(checked)


class Plain(kdtool.Tokenizer):
    """The least that a tokenizer can be: bytes, an end, and a second id of the letter a."""

    vocabulary = 258
    end_of_text = 256
    fingerprint = "plain"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [b"a" if i == 257 else b"" if i == 256 else bytes([i]) for i in ids]


def test_text_and_names_come_of_pieces() -> None:
    tokenizer = Plain()
    assert tokenizer.decode([*"dé漢".encode(), 256, 257]) == "dé漢a"
    assert tokenizer.decode([0xC3]) == "\N{REPLACEMENT CHARACTER}"
    names = tokenizer.tokens()
    assert len(set(names)) == 258
    assert (names[97], names[256], names[257]) == ("<61>", "<end>", "<plain 257>")


def test_a_plain_tokenizer_has_no_start_template_or_marks() -> None:
    tokenizer = Plain()
    assert (tokenizer.document_start, tokenizer.scoring_context) == ((), (10,))
    assert tokenizer.missing_start([1, 2]) == ()
    assert tokenizer.encode_behind("x = ", "1") == [49]
    assert tokenizer.chat_fingerprint == ""
    assert tokenizer.encode_chat([("user", "hello")]) is None
    assert tokenizer.encode_infilling("a", "b", "c", False) is None
    with pytest.raises(kdtool.UsageError, match=r"Plain .*; implement Tokenizer\.save"):
        tokenizer.save(Path())
