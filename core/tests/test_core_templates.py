"""Conversations with other tokens in a teacher's chat template than in the student's are refused."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool
import pytest
from kdtool._run.stages.terms import refuse_other_templates
from kdtool_testing import ByteTokenizer


class Marked(ByteTokenizer):
    """Writes conversations with a mark of its template."""

    def __init__(self, mark: str) -> None:
        self.chat_fingerprint = mark


def render(example: kdtool.Example, tokenizer: kdtool.Tokenizer) -> Iterator[kdtool.Row]:
    if isinstance(example.body, kdtool.Messages) and example.body.turns[0][1]:
        ids = tokenizer.encode(tokenizer.chat_fingerprint[0] + example.body.turns[0][1])
        yield kdtool.Row(example.id, ids, [True] * len(ids), [0] * len(ids))


def example(name: str, body: kdtool.Text | kdtool.Messages) -> kdtool.Example:
    return kdtool.Example(name, body, "train")


TEXT = example("text", kdtool.Text("x = 1"))
EMPTY = example("empty", kdtool.Messages((("user", ""),)))
TALK = example("talk", kdtool.Messages((("user", "hello"), ("assistant", "hi"))))


def test_text_and_conversations_of_equal_tokens_pass() -> None:
    others = {"teacher": Marked("a2")}  # another template, which renders the same
    examples = [TEXT, EMPTY, TALK, TALK]
    assert list(refuse_other_templates(examples, Marked("a1"), others, render)) == examples
    assert list(refuse_other_templates([TEXT], Marked("a"), {"teacher": Marked("b")}, render)) == [TEXT]


def test_the_first_conversation_with_other_tokens_names_the_teacher() -> None:
    others = {"teachers.good": Marked("a2"), "teachers.bad": Marked("b")}
    checked = refuse_other_templates([TEXT, EMPTY, TALK], Marked("a1"), others, render)
    with pytest.raises(kdtool.UsageError, match=r"'talk' has other tokens .* of teachers\.bad .*conversations: plain"):
        list(checked)
