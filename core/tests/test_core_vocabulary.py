"""Vocabularies compared, and what a recipe is told where they differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._cli import call
from toy import Bytes


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
    assert [(first[i], second[i]) for i, _, _ in found.differing] == [(own, other) for _, own, other in found.differing]
    back = kdtool.Vocabularies.compare(Named(second, "b"), Named(first, "a"))
    assert (back.relation, back.shared) == (found.relation, found.shared)


@given(tokens=_TOKENS, more=st.lists(st.text(max_size=3), max_size=4))
def test_tokens_that_come_behind_change_nothing_of_what_is_shared(tokens: list[str], more: list[str]) -> None:
    found = kdtool.Vocabularies.compare(Named(tokens, "a"), Named(tokens + more, "b"))
    assert found.shared == len(tokens)
    assert found.relation == ("prefix" if more else "tokens")


def test_equal_fingerprints_are_believed() -> None:
    found = kdtool.Vocabularies.compare(Named(["a", "b"], "same"), Named(["a", "b"], "same"))
    assert (found.relation, found.shared, found.sentence("x", "y")) == ("same", 2, "")


def test_sentences_name_sizes_and_the_first_ids_that_differ() -> None:
    own, other = Named(["<end>", "a", "b", "c", "d", "e"]), Named(["<end>", "A", "b", "C", "D", "E", "f"])
    assert kdtool.Vocabularies.compare(own, other).sentence("the student", "teacher") == (
        "the student has 6 tokens and teacher 7; the first ids with different tokens: 1 is 'a' and 'A'; "
        "3 is 'c' and 'C'; 4 is 'd' and 'D'"
    )
    longer = Named(["<end>", "a", "b", "c", "d", "e", "<fim>"])
    assert kdtool.Vocabularies.compare(own, longer).sentence("the student", "teacher") == (
        "the student has 6 tokens and teacher 7; the first 6 are the same: they are compared over these"
    )


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


_SOURCE = """
import kdtool
import toy

class Longer(toy.Bytes):
    vocabulary = 260
    fingerprint = "longer"

class Others(toy.Bytes):
    fingerprint = "others"
    def tokens(self):
        return [*super().tokens()[::-1]]

class Prefix(toy.Teacher):
    def kdtool_tokenizer(self, run):
        return Longer()

class Started(toy.Bytes):
    @property
    def document_start(self):
        return (self.end_of_text,)

class Begun(toy.Teacher):
    def kdtool_tokenizer(self, run):
        return Started()

class Foreign(toy.Teacher):
    def kdtool_tokenizer(self, run):
        return Others()
    def kdtool_signal(self, batch, want):
        raise AssertionError("weights would be loaded")
"""


@pytest.fixture
def local(tmp_path: Path) -> Path:
    file = tmp_path / "vocabularies.py"
    file.write_text(_SOURCE, encoding="utf-8")
    return file


def test_loss_on_other_tokens_is_refused_with_its_place_before_anything_is_made(
    recipe: dict[str, Any], local: Path
) -> None:
    recipe["teacher"] = {"use": f"{local}:Foreign"}
    for way in (kdtool.run, kdtool.check, kdtool.plan):
        with pytest.raises(kdtool.RecipeError) as refused:
            way(recipe)
        text = str(refused.value)
        assert "train.losses.imitate: compares token by token" in text
        assert "the student has 257 tokens and teacher 257" in text
        assert "0 is '<00>' and '<end>'" in text
        assert "a loss that works across vocabularies" in text
    assert not list(Path("store").glob("text*/*"))


def test_teacher_that_begins_documents_otherwise_is_refused(recipe: dict[str, Any], local: Path) -> None:
    recipe["teacher"] = {"use": f"{local}:Begun"}
    for way in (kdtool.run, kdtool.check):
        with pytest.raises(kdtool.RecipeError) as refused:
            way(recipe)
        text = str(refused.value)
        assert "train.losses.imitate: compares token by token" in text
        assert "teacher begins documents with '<end>', and the student with no token" in text
        assert "inherits the teacher's tokenizer" in text


def test_foreign_teacher_may_stand_beside_where_nothing_learns_from_it(recipe: dict[str, Any], local: Path) -> None:
    recipe |= {"teacher": {"use": f"{local}:Foreign"}, "signals": False}
    recipe["train"]["losses"]["imitate"] = False
    assert kdtool.check(recipe)["vocabularies"] == {}


def test_verdict_is_checked_and_printed(
    recipe: dict[str, Any], local: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (verdict,) = kdtool.check(recipe)["vocabularies"].values()
    assert verdict["relation"] == "same"
    recipe |= {"teacher": {"use": f"{local}:Prefix"}, "signals": False}
    (verdict,) = kdtool.check(recipe)["vocabularies"].values()
    assert (verdict["relation"], verdict["sizes"], verdict["shared"]) == ("prefix", [257, 260], 257)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", str(tmp_path / "r.yaml")]) == 0
    assert (
        "vocabularies: the student has 257 tokens and teacher 260; the first 257 are the same"
        in capsys.readouterr().out
    )
