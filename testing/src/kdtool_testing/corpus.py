"""The suite of corpora."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import ClassVar, get_args

from kdtool import Completion, Example, Messages, RunInfo, Split, Text

from kdtool_testing.component import ComponentConformance

__all__ = ["CorpusConformance"]


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
