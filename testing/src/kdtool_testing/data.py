"""The suites of components that prepare data: corpora, filters and packers."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any, ClassVar, get_args

import pytest
from kdtool import Completion, Example, Messages, Preference, Row, RunInfo, Split, Text, UsageError, parts_of

from kdtool_testing.component import ComponentConformance
from kdtool_testing.toy import ByteTokenizer, SpacedTokenizer, StartedTokenizer


class CorpusConformance(ComponentConformance):
    """A corpus yields the same well-formed examples every time, and identifies its source."""

    kind: ClassVar[str] = "corpus"

    def _examples(self, run: RunInfo) -> list[Example]:
        return list(self.ready(run).kdtool_examples(run))

    def test_examples_are_given_one_by_one(self, run: RunInfo) -> None:
        assert isinstance(self.ready(run).kdtool_examples(run), Iterator)

    def test_examples_are_well_formed(self, run: RunInfo) -> None:
        examples = self._examples(run)
        assert examples
        for example in examples:
            assert example.id
            assert isinstance(example.body, Text | Completion | Messages)
            assert example.split in get_args(Split)
            assert example.language == example.language.lower()
            assert _words(example.body), f"{example.id} has no text"
            assert all(
                isinstance(text, str) for text in (example.licence, example.source, *sum(example.meta.items(), ()))
            )

    def test_ids_are_unique(self, run: RunInfo) -> None:
        ids = [example.id for example in self._examples(run)]
        assert len(ids) == len(set(ids))

    def test_the_same_examples_come_in_the_same_order(self, run: RunInfo) -> None:
        assert self._examples(run) == self._examples(run)

    def test_several_readers_do_not_disturb_each_other(self, run: RunInfo) -> None:
        expected = self._examples(run)
        corpus = self.ready(run)
        first, second = iter(corpus.kdtool_examples(run)), iter(corpus.kdtool_examples(run))
        heads = [list(islice(reader, 2)) for reader in (first, second)]
        assert heads[0] == heads[1] == expected[:2]
        assert [*heads[1], *second] == expected

    def test_what_it_was_made_from_is_said_and_stable(self, run: RunInfo) -> None:
        first = self.ready(run).kdtool_identity(run)
        assert first
        assert all(isinstance(text, str) for pair in first.items() for text in pair)
        assert self.ready(run).kdtool_identity(run) == first


def _words(body: Text | Completion | Messages) -> str:
    if isinstance(body, Text):
        return body.text
    return body.completion if isinstance(body, Completion) else "".join(content for _, content in body.turns)


FILTER_EXAMPLES = (
    *(
        Example(f"id-{i}-", Text(f"def f{i}(x):\n    return x + {i}\n" * (1 + i % 5)), language="python")
        for i in range(9)
    ),
    Example("id-empty", Text("")),
    Example("id-broken", Text("def f(:\n\treturn }"), language="python"),
    Example("id-odd", Text("\x00\ufffd é 漢 \U0001f600\r\n" * 20), split="test"),
    Example("id-long", Text("x = 1\n" * 5000), split="validation", licence="MIT"),
    Example("id-copy", Text("def f1(x):\n    return x + 1\n" * 2), language="python"),
    Example("id-pair", Completion("# add one\n", "x += 1\n")),
    Example("id-preference", Preference("# add one\n", "x += 1\n", "x -= 1\n")),
    Example("id-talk", Messages((("system", "Be brief."), ("user", "print 1"), ("assistant", "print(1)")))),
)


class FilterConformance(ComponentConformance):
    """A filter answers for every example, gives short reasons, and decides the same however examples are batched."""

    kind: ClassVar[str] = "filter"

    def examples(self) -> tuple[Sequence[Example], Sequence[Example]]:
        """Return examples that the filter keeps and examples that it rejects: those it keeps, those it rejects."""
        raise NotImplementedError

    def test_there_is_one_answer_for_each_example(self, run: RunInfo) -> None:
        answers = self.ready(run).kdtool_filter(run, FILTER_EXAMPLES)
        assert len(answers) == len(FILTER_EXAMPLES)
        for answer in answers:
            assert answer is None or isinstance(answer, str)

    def test_reasons_are_short_and_few(self, run: RunInfo) -> None:
        reasons = {answer for answer in self.ready(run).kdtool_filter(run, FILTER_EXAMPLES) if answer}
        for reason in reasons:
            assert 0 < len(reason) <= 80, reason
            assert "\n" not in reason
            assert not any(example.id in reason for example in FILTER_EXAMPLES), "reasons are counted: name no example"

    def test_it_keeps_and_rejects_what_it_should(self, run: RunInfo) -> None:
        kept, rejected = self.examples()
        assert kept
        assert rejected
        answers = self.ready(run).kdtool_filter(run, [*kept, *rejected])
        assert [answer is None for answer in answers] == [True] * len(kept) + [False] * len(rejected)

    def test_nothing_to_judge_is_no_error(self, run: RunInfo) -> None:
        assert list(self.ready(run).kdtool_filter(run, [])) == []

    def test_it_decides_the_same_each_time_and_in_any_batches(self, run: RunInfo) -> None:
        whole = list(self.ready(run).kdtool_filter(run, FILTER_EXAMPLES))
        assert list(self.ready(run).kdtool_filter(run, FILTER_EXAMPLES)) == whole
        for size in (1, 5):
            filter_ = self.ready(run)
            assert [answer for batch in _cut(size) for answer in filter_.kdtool_filter(run, batch)] == whole

    def test_examples_stay_as_they_are(self, run: RunInfo) -> None:
        meta: Mapping[str, Any] = {"stars": "3"}
        example = Example("a", Text("x = 1\n"), meta=dict(meta))
        before = repr(example)
        self.ready(run).kdtool_filter(run, [example])
        assert repr(example) == before


def _cut(size: int) -> Iterator[Sequence[Example]]:
    for start in range(0, len(FILTER_EXAMPLES), size):
        yield FILTER_EXAMPLES[start : start + size]


Body = Text | Completion | Messages
PACKER_EXAMPLES = (
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
        return [example for example in PACKER_EXAMPLES if type(example.body) in self.forms]

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
        told = [replace(example, annotations={"letter": _letters(example)}) for example in PACKER_EXAMPLES]
        rows = list(self.rows(run, told))
        assert [replace(row, columns={}) for row in rows] == list(self.rows(run, PACKER_EXAMPLES)), (
            "they change nothing else"
        )
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
        for example in PACKER_EXAMPLES:
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
