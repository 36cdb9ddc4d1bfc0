"""The suite of corpora."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from kdtool._contract.text import Completion, Example, Messages, Split, Text
from kdtool._contract.training import RunInfo
from kdtool.testing._component import ComponentConformance

__all__ = ["CorpusConformance"]


class CorpusConformance(ComponentConformance):
    """A corpus gives the same well-formed examples every time, and says what it was made from."""

    def prepared(self, folder: Path) -> Mapping[str, Any]:
        """Return settings for which the corpus has examples; write the files that they name into `folder`."""
        return self.settings

    def _examples(self, run: RunInfo) -> list[Example]:
        return list(self.build(**self.prepared(run.folder)).kdtool_examples(run))

    def test_examples_are_given_one_by_one(self, run: RunInfo) -> None:
        assert isinstance(self.build(**self.prepared(run.folder)).kdtool_examples(run), Iterator)

    def test_examples_are_well_formed(self, run: RunInfo) -> None:
        examples = self._examples(run)
        assert examples
        for example in examples:
            assert example.id
            assert isinstance(example.body, Text | Completion | Messages)
            assert example.split in get_args(Split)
            assert example.language == example.language.lower()

    def test_ids_are_unique(self, run: RunInfo) -> None:
        ids = [example.id for example in self._examples(run)]
        assert len(ids) == len(set(ids))

    def test_the_same_examples_come_in_the_same_order(self, run: RunInfo) -> None:
        assert self._examples(run) == self._examples(run)

    def test_what_it_was_made_from_is_said_and_stable(self, run: RunInfo) -> None:
        settings = self.prepared(run.folder)
        first = self.build(**settings).kdtool_identity(run)
        assert first
        assert all(isinstance(text, str) for pair in first.items() for text in pair)
        assert self.build(**settings).kdtool_identity(run) == first
