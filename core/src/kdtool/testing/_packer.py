"""The suite of packers."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import ClassVar

from kdtool._bodies import parts_of
from kdtool._contract.text import Completion, Example, Messages, Row, Text
from kdtool._contract.training import RunInfo
from kdtool.testing._component import ComponentConformance
from kdtool.testing._surroundings import ByteTokenizer

__all__ = ["PackerConformance"]

EXAMPLES = (
    *(Example(f"text{i}", Text(f"def f{i}(x):\n    return x + {i}\n" * (1 + i % 5))) for i in range(12)),
    *(Example(f"completion{i}", Completion(f"# add {i}\n", f"x += {i}\n" * (1 + i))) for i in range(6)),
    Example("talk", Messages((("system", "Be brief."), ("user", "print 1"), ("assistant", "print(1)")))),
)


class PackerConformance(ComponentConformance):
    """A packer gives rows of one length, well formed, with keys that depend on content alone, and streams."""

    kind: ClassVar[str] = "packer"

    def rows(self, run: RunInfo, examples: Iterable[Example]) -> Iterator[Row]:
        """Return the rows that a fresh component makes of `examples`."""
        rows: Iterator[Row] = self.build().kdtool_rows(run, examples, ByteTokenizer())
        return rows

    def test_rows_have_one_length_in_all_their_parts(self, run: RunInfo) -> None:
        rows = list(self.rows(run, EXAMPLES))
        assert rows
        parts = [(row.input_ids, row.labelled, row.document, *row.columns.values()) for row in rows]
        assert len({len(part) for row in parts for part in row}) == 1

    def test_tokens_and_documents_are_well_formed(self, run: RunInfo) -> None:
        for row in self.rows(run, EXAMPLES):
            assert all(0 <= token < ByteTokenizer.vocabulary for token in row.input_ids)
            steps = {
                after - before for before, after in zip(row.document, row.document[1:], strict=False) if after >= 0
            }
            assert steps <= {0, 1}, "documents are numbered 0, 1, 2 … and padding comes last"
            assert not any(labelled for labelled, number in zip(row.labelled, row.document, strict=True) if number < 0)

    def test_keys_are_unique_and_the_same_each_time(self, run: RunInfo) -> None:
        keys = [row.key for row in self.rows(run, EXAMPLES)]
        assert len(keys) == len(set(keys))
        assert keys == [row.key for row in self.rows(run, EXAMPLES)]

    def test_keys_stay_unique_where_texts_repeat(self, run: RunInfo) -> None:
        same = [Example(f"copy{i}", Text("x = 1\n" * 400)) for i in range(4)]
        keys = [row.key for row in self.rows(run, same)]
        assert len(keys) == len(set(keys))

    def test_keys_change_with_the_text(self, run: RunInfo) -> None:
        first = {row.key for row in self.rows(run, [Example("a", Text("x = 1\n" * 400))])}
        second = {row.key for row in self.rows(run, [Example("a", Text("x = 2\n" * 400))])}
        assert not first & second

    def test_plain_text_is_learned_whole(self, run: RunInfo) -> None:
        for row in self.rows(run, [Example(f"t{i}", Text("x = 1\n" * 40)) for i in range(9)]):
            assert all(labelled for labelled, number in zip(row.labelled, row.document, strict=True) if number >= 0)

    def test_only_completions_are_learned(self, run: RunInfo) -> None:
        text = "".join(
            ByteTokenizer().decode([t for t, learned in zip(row.input_ids, row.labelled, strict=True) if learned])
            for row in self.rows(run, [Example(f"c{i}", Completion("PROMPT " * 9, "answer ")) for i in range(60)])
        )
        assert "answer" in text
        assert "PROMPT" not in text

    def test_only_the_assistant_s_turns_are_learned(self, run: RunInfo) -> None:
        talk = Messages((("user", "QUESTION"), ("assistant", "reply"), ("user", "QUESTION"), ("assistant", "reply")))
        text = "".join(
            ByteTokenizer().decode([t for t, learned in zip(row.input_ids, row.labelled, strict=True) if learned])
            for row in self.rows(run, [Example(f"m{i}", talk) for i in range(60)])
        )
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

    def test_no_examples_give_no_rows(self, run: RunInfo) -> None:
        assert not list(self.rows(run, ()))

    def test_rows_come_before_the_examples_end(self, run: RunInfo) -> None:
        endless = (Example(f"e{i}", Text(f"x = {i}\n" * 50)) for i in count())
        assert len(list(islice(self.rows(run, endless), 3))) == 3


def _letters(example: Example) -> list[int]:
    """Return the byte of each character, which is the token that stands for it."""
    return list("".join(parts_of(example.body)).encode("ascii"))
