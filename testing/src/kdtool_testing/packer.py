"""The suite of packers."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import ClassVar

import pytest
from kdtool import Completion, Example, Messages, Preference, Row, RunInfo, Text, UsageError, parts_of

from kdtool_testing.component import ComponentConformance
from kdtool_testing.toy.tokenizers import ByteTokenizer, SpacedTokenizer, StartedTokenizer

__all__ = ["PackerConformance"]

Body = Text | Completion | Messages

EXAMPLES = (
    *(Example(f"text{i}", Text(f"def f{i}(x):\n    return x + {i}\n" * (1 + i % 5))) for i in range(12)),
    *(Example(f"completion{i}", Completion(f"# add {i}\n", f"x += {i}\n" * (1 + i))) for i in range(6)),
    *(Example(f"pair{i}", Preference(f"# add {i}\n", f"x += {i}\n" * (1 + i), f"x -= {i}\n")) for i in range(6)),
    Example("talk", Messages((("system", "Be brief."), ("user", "print 1"), ("assistant", "print(1)")))),
)


class PackerConformance(ComponentConformance):
    """A packer gives rows of one length, well formed, with keys that depend only on content, and streams.

    `forms` are the forms of examples that it accepts; others are refused with a `UsageError`. Some texts are repeated
    `repeats` times; lower it for a packer that leaves out texts too long for a row.
    """

    kind: ClassVar[str] = "packer"
    forms: ClassVar[tuple[type[Body], ...]] = (Text, Completion, Preference, Messages)
    repeats: ClassVar[int] = 400

    def rows(self, run: RunInfo, examples: Iterable[Example]) -> Iterator[Row]:
        """Return the rows that a fresh component makes of `examples`."""
        rows: Iterator[Row] = self.build().kdtool_rows(run, examples, ByteTokenizer())
        return rows

    def examples(self) -> list[Example]:
        """Return examples of the forms that the packer takes."""
        return [example for example in EXAMPLES if type(example.body) in self.forms]

    def labelled_text(self, run: RunInfo, body: Body, *, rejected: bool = False) -> str:
        """Return the texts learned from many examples with this body, or those marked as rejected; skip if not accepted."""
        if type(body) not in self.forms:
            pytest.skip(f"takes no {type(body).__name__}")
        found = ""
        for row in self.rows(run, [Example(f"e{i}", body) for i in range(60)]):
            marks = row.columns.get("rejected", [0] * len(row.input_ids))
            tokens = zip(row.input_ids, row.labelled, marks, strict=True)
            found += ByteTokenizer().decode([token for token, own, mark in tokens if own and bool(mark) == rejected])
        return found

    def _body(self, text: str) -> Body:
        form = self.forms[0]
        if issubclass(form, Messages):
            return Messages((("user", "go on"), ("assistant", text)))
        if issubclass(form, Preference):
            return Preference("go on", text, "no")
        return Completion("go on", text) if issubclass(form, Completion) else Text(text)

    def test_rows_have_one_length_in_all_their_parts(self, run: RunInfo) -> None:
        rows = list(self.rows(run, self.examples()))
        assert rows
        parts = [(row.input_ids, row.labelled, row.document, *row.columns.values()) for row in rows]
        assert len({len(part) for row in parts for part in row}) == 1

    def test_tokens_and_documents_are_well_formed(self, run: RunInfo) -> None:
        for row in self.rows(run, self.examples()):
            assert all(0 <= token < ByteTokenizer.vocabulary for token in row.input_ids)
            steps = {
                after - before for before, after in zip(row.document, row.document[1:], strict=False) if after >= 0
            }
            assert steps <= {0, 1}, "documents are numbered 0, 1, 2 … and padding comes last"
            assert not any(labelled for labelled, number in zip(row.labelled, row.document, strict=True) if number < 0)

    def test_keys_are_unique_and_the_same_each_time(self, run: RunInfo) -> None:
        keys = [row.key for row in self.rows(run, self.examples())]
        assert len(keys) == len(set(keys))
        assert keys == [row.key for row in self.rows(run, self.examples())]

    def test_keys_stay_unique_where_texts_repeat(self, run: RunInfo) -> None:
        same = [Example(f"copy{i}", self._body("x = 1\n" * self.repeats)) for i in range(4)]
        keys = [row.key for row in self.rows(run, same)]
        assert len(keys) == len(set(keys))

    def test_keys_change_with_the_text(self, run: RunInfo) -> None:
        first, second = (
            {row.key for row in self.rows(run, [Example("a", self._body(f"x = {i}\n" * self.repeats))])} for i in (1, 2)
        )
        assert first
        assert not first & second

    def test_plain_text_is_learned_whole(self, run: RunInfo) -> None:
        if Text not in self.forms:
            pytest.skip("takes no Text")
        for row in self.rows(run, [Example(f"t{i}", Text("x = 1\n" * 40)) for i in range(9)]):
            assert all(labelled for labelled, number in zip(row.labelled, row.document, strict=True) if number >= 0)

    def test_only_completions_are_learned(self, run: RunInfo) -> None:
        text = self.labelled_text(run, Completion("PROMPT " * 9, "answer "))
        assert "answer" in text
        assert "PROMPT" not in text

    def test_a_completion_follows_its_prompt_as_in_the_text(self, run: RunInfo) -> None:
        """Also with a tokenizer that puts a space before every text."""
        tokenizer = SpacedTokenizer()
        for body in (Completion("x = f(", "a)\n"), Preference("x = f(", "a)\n", "b)\n")):
            if type(body) in self.forms:
                examples = [Example(f"e{i}", body) for i in range(60)]
                rows = list(self.build().kdtool_rows(run, examples, tokenizer))
                texts = [tokenizer.decode(row.input_ids) for row in rows]
                assert any("(a" in text for text in texts)
                assert not any("( " in text for text in texts), "use `encode_behind` for text that follows other text"

    def test_every_document_begins_as_its_tokenizer_begins_one(self, run: RunInfo) -> None:
        """Also one that continues in another row: once, and not to be learned."""
        tokenizer = StartedTokenizer()
        (start,) = tokenizer.document_start
        rows = list(self.build().kdtool_rows(run, self.examples(), tokenizer))
        assert rows
        for row in rows:
            before = -1
            for token, labelled, number in zip(row.input_ids, row.labelled, row.document, strict=True):
                if number >= 0:
                    assert (token == start) == (number != before), "put `Tokenizer.document_start` before each document"
                    assert not (token == start and labelled), "nothing predicts the start of a document"
                before = number

    def test_only_the_assistant_s_turns_are_learned(self, run: RunInfo) -> None:
        talk = Messages((("user", "QUESTION"), ("assistant", "reply"), ("user", "QUESTION"), ("assistant", "reply")))
        text = self.labelled_text(run, talk)
        assert "reply" in text
        assert "QUESTION" not in text

    def test_annotations_come_to_the_tokens_that_are_learned(self, run: RunInfo) -> None:
        if not self.build().carries_annotations:
            return
        told = [replace(example, annotations={"letter": _letters(example)}) for example in EXAMPLES]
        rows = list(self.rows(run, told))
        assert [replace(row, columns={}) for row in rows] == list(self.rows(run, EXAMPLES)), "they change nothing else"
        assert all(row.columns.keys() >= {"letter"} for row in rows)
        for row in rows:
            for token, learned, letter in zip(row.input_ids, row.labelled, row.columns["letter"], strict=True):
                assert not learned or letter == (token if token < ByteTokenizer.end_of_text else 0)

    def test_rejected_answers_are_marked_or_left_out(self, run: RunInfo) -> None:
        pair = Preference("PROMPT", "answer ", "MISTAKE ")
        text = self.labelled_text(run, pair)
        assert "answer" in text
        assert "PROMPT" not in text
        assert "MISTAKE" not in text
        assert "answer" not in self.labelled_text(run, pair, rejected=True)

    def test_forms_that_it_does_not_take_are_refused(self, run: RunInfo) -> None:
        for example in EXAMPLES:
            if type(example.body) not in self.forms:
                with pytest.raises(UsageError, match=example.id):
                    list(self.rows(run, [example]))

    def test_no_examples_give_no_rows(self, run: RunInfo) -> None:
        assert not list(self.rows(run, ()))

    def test_rows_come_before_the_examples_end(self, run: RunInfo) -> None:
        endless = (Example(f"e{i}", self._body(f"x = {i}\n" * min(50, self.repeats))) for i in count())
        assert len(list(islice(self.rows(run, endless), 3))) == 3


def _letters(example: Example) -> list[int]:
    """Return the byte of each character, which is its token."""
    return list("".join(parts_of(example.body)).encode("ascii"))
