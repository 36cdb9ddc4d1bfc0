"""Prompts without answers, and the tokens that stay free for what the student writes after each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kdtool
import pydantic
import pytest
from kdtool_essentials.packed import Packed
from kdtool_testing import ByteTokenizer, make_run
from packing import END, documents_of, pack


class Chatting(ByteTokenizer):
    """Bytes with a template that writes [role]content."""

    chat_fingerprint = "brackets"

    def encode_chat(
        self, turns: Sequence[tuple[str, str]], detailed: kdtool.DetailedMessages | None = None
    ) -> tuple[list[int], list[bool]] | None:
        parts = [(token, role == "assistant") for role, said in turns for token in f"[{role}]{said}".encode()]
        return [token for token, _ in parts], [learned for _, learned in parts]

    def encode_prompt(
        self, turns: Sequence[tuple[str, str]], opening: str = "", detailed: kdtool.DetailedMessages | None = None
    ) -> list[int]:
        if turns[0][0] == "tool":
            raise kdtool.UsageError("the chat template refuses turns of tool")
        return [*"".join(f"[{role}]{said}" for role, said in (*turns, ("assistant", opening))).encode()]


def documents(row: kdtool.Row) -> list[tuple[bytes, bool]]:
    """Return the text of each document, with | for its end, and whether any of it is labelled."""
    return [
        (
            bytes(ord("|") if token == END else token for token, _ in document if token <= END),
            any(labelled for _, labelled in document),
        )
        for document in documents_of([row])
    ]


def test_a_prompt_without_an_answer_has_no_labels_and_its_room_stays_free() -> None:
    rows, said = pack([kdtool.Completion(text, "") for text in ("ab", "cd", "ef")], length=12, room=3)
    assert [documents(row) for row in rows] == [[(b"ab", False), (b"cd", False)], [(b"ef", False)]]
    assert [list(row.document) for row in rows] == [[0, 0, 1, 1, *[-1] * 8], [0, 0, *[-1] * 10]]
    assert not said


def test_a_conversation_ends_as_the_model_is_asked() -> None:
    asked = kdtool.Messages((("user", "a"), ("assistant", "b"), ("user", "c")))
    (row,), _ = pack([asked], Chatting(), length=60, room=5)
    assert documents(row) == [(b"[user]a[assistant]b[user]c[assistant]", False)]
    (row,), _ = pack([asked], Chatting(), length=100, room=5, conversations="plain")
    assert documents(row) == [(b"### user\na\n\n### assistant\nb|### user\nc\n\n### assistant\n", False)]
    (row,), said = pack([asked], Chatting(), length=60)
    assert documents(row) == [(b"[user]a[assistant]b[user]c", True)], "without room its answer is learned"
    assert not said
    with pytest.raises(kdtool.UsageError, match=r"'e0': .* refuses turns of tool; .*`rows.conversations: plain`"):
        pack([kdtool.Messages((("tool", "a"),))], Chatting(), length=60, room=5)


@pytest.mark.parametrize("body", [kdtool.Completion("abc", ""), kdtool.Messages((("user", "abc"),))])
def test_without_room_prompts_are_left_out_and_never_taught_to_end(body: Any) -> None:
    rows, said = pack([body, kdtool.Completion("a", "b")], length=20)
    assert [documents(row) for row in rows] == [[(b"ab|", True)]]
    assert said == ["rows: left out 1 prompt without an answer, such as 'e0'; set `room` to train on them on-policy"]


def test_prompts_that_are_too_short_or_too_long_are_left_out_and_counted() -> None:
    rows, (said,) = pack([kdtool.Completion(text, "") for text in ("", "a", "abcdef", "abcde")], length=8, room=3)
    assert [documents(row) for row in rows] == [[(b"abcde", False)]]
    assert "left out 3 prompts without an answer, such as 'e0': fewer than two tokens, or too long" in said


def test_text_that_is_to_carry_a_column_needs_an_answer() -> None:
    example = kdtool.Example("e", kdtool.Completion("ab", ""), annotations={"teacher": [1, 1]})
    packer = Packed(Packed.Config(length=8, room=2))
    with pytest.raises(kdtool.UsageError, match=r"rows\.room: 'e' is a prompt without an answer, so .* carry teacher"):
        list(packer.kdtool_rows(make_run(Path()), [example], ByteTokenizer()))


class Twice(ByteTokenizer):
    document_start: tuple[int, ...] = (1, 2)


def test_room_leaves_some_of_a_row() -> None:
    with pytest.raises(pydantic.ValidationError, match="too little of rows"):
        Packed.Config(length=8, room=7)
    with pytest.raises(kdtool.UsageError, match="free ones of `room`"):
        pack([], Twice(), length=3, room=1)
