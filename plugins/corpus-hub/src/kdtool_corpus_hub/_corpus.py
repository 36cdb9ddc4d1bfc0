"""A data set of the Hugging Face hub as a stream, or local data files.

`Hub` is the corpus that recipes call `hub`. Where records are and how they are read is `kdtool_datasets`'s; here columns
become examples (`_columns`), each with a split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool
import pydantic

if TYPE_CHECKING:
    from kdtool_datasets import DataFiles, HubDataset

__all__ = ["Hub"]


class Hub(kdtool.Corpus):
    """One example for each record of a data set, from the columns that the recipe names. Its code is never run.

    Further copies of an example are left out, whatever their ids, and its content decides its split. Without a column of ids
    it is called by its content.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `hub`."""

        dataset: str = ""
        """Name on the hub, as `owner/name`; or give `files`."""
        files: tuple[Path, ...] = ()
        """Local data files of one format instead: .parquet, .jsonl, .json, .arrow, .csv. Their names must differ."""
        config: str | None = None
        """Which of the data set's configurations; null takes its only or default one."""
        revision: str | None = None
        """Branch, tag or commit of the data set; null takes the newest. The run records the commit."""
        splits: Mapping[kdtool.Split, str] = kdtool.Field(default={"train": "train"}, min_length=1)
        """The data set's own split to take for each of `train`, `validation` and `test`. Files are all of one: `train`."""
        text_column: str | None = None
        """Column with plain text, every token of which is learned."""
        prompt_column: str | None = None
        """Column with prompts; goes with `completion_column`, or with `chosen_column` and `rejected_column`."""
        completion_column: str | None = None
        """Column with completions, which alone are learned."""
        chosen_column: str | None = None
        """Column with the better of two completions of a prompt, as text."""
        rejected_column: str | None = None
        """Column with the worse of two completions of a prompt, as text."""
        messages_column: str | None = None
        """Column with conversations: lists of `role` and `content`, or of `from` and `value` as ShareGPT has them."""
        id_column: str | None = None
        """Column with an id, unique in all splits; null calls an example by a hash of its content."""
        split_column: str | None = None
        """Column with train, validation or test; null takes the split that is read."""
        language_column: str | None = None
        """Column with the programming language; null takes `language`."""
        licence_column: str | None = None
        """Column with an SPDX expression, or a list of licences that all hold; null takes `licence`."""
        language: str = ""
        """Language of all examples without a column for it."""
        licence: str = ""
        """SPDX expression for all examples without a column for it."""
        validation_share: float = kdtool.Field(default=0.0, ge=0, le=0.5)
        """Share of the examples of `train`, by a hash of their content, that settings are chosen on."""
        test_share: float = kdtool.Field(default=0.0, ge=0, le=0.49)
        """Share of the examples of `train`, by a hash of their content, that are scored at the end."""
        maximum_examples: int | None = kdtool.Field(default=10_000, ge=1)
        """At most so many examples of each split that is read, from the start; null reads all there is."""
        shuffle_buffer: int | None = kdtool.Field(default=None, ge=2)
        """So many records are held and drawn from at random; null keeps the order. `maximum_examples` counts afterwards."""
        seed: int = kdtool.Field(default=0, ge=0, le=2**32 - 1)
        """Of the shuffling. It never changes an example's split."""

        @pydantic.model_validator(mode="after")
        def _has_one_source_and_one_form(self) -> Hub.Config:
            if bool(self.dataset) == bool(self.files):
                raise ValueError("needs `dataset`, a name on the hub, or `files`, and not both")
            if self.files and (self.config or self.revision or set(self.splits.items()) != {("train", "train")}):
                raise ValueError("`config`, `revision` and `splits` belong to data sets of the hub, not to files")
            if len({path.name for path in self.files}) < len(self.files):
                raise ValueError("two files have the same name, by which the run's record tells them apart")
            if (self.chosen_column is None) != (self.rejected_column is None):
                raise ValueError("`chosen_column` and `rejected_column` go together")
            answers = [self.completion_column, self.chosen_column].count(None)
            if answers != (2 if self.prompt_column is None else 1):
                raise ValueError(
                    "`prompt_column` goes together with `completion_column`, or with `chosen_column` and `rejected_column`"
                )
            if [self.text_column, self.prompt_column, self.messages_column].count(None) != 2:
                raise ValueError(
                    "name the columns of one form: text_column, or prompt_column and completion_column, or prompt_column, "
                    "chosen_column and rejected_column, or messages_column"
                )
            return self

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._opened: DataFiles | HubDataset | None = None

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the data set's commit, or each file's SHA-256.

        Raises:
            kdtool.UsageError: there is no such data set, or a file cannot be read.
            kdtool.ServiceError: the hub cannot be reached.
        """
        return self._source().identity(offline=run.offline)

    def kdtool_acknowledge(self) -> kdtool.Terms | None:
        """Say where to read a data set's licence, unless the recipe names one; that of files is the user's to know."""
        if self.config.licence:
            return kdtool.Terms(self.config.licence)
        if not self.config.dataset:
            return None
        return kdtool.Terms("as named on its data card", url=f"https://huggingface.co/datasets/{self.config.dataset}")

    def kdtool_missing(self, run: kdtool.RunInfo) -> Sequence[str]:
        """Say which files are not there."""
        return [f"files: there is no file {path.absolute()}" for path in self.config.files if not path.exists()]

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the examples, split by split; how many copies were left out is said.

        Raises:
            kdtool.UsageError: a column is not there or holds something else, an id comes twice, or data cannot be read.
            kdtool.ServiceError: the hub cannot be reached.
        """
        from kdtool_corpus_hub._columns import body_of, content_hash, text_of, words_of

        config = self.config
        contents, ids, copies = set[bytes](), set[bytes](), 0
        shuffled: dict[str, Any] = {"shuffle_buffer": config.shuffle_buffer, "seed": config.seed}
        for split in self._splits():
            taken = 0
            for record in self._source().records(config.splits[split], offline=run.offline, **shuffled):
                if config.maximum_examples is not None and taken >= config.maximum_examples:
                    break
                body = body_of(record, config)
                if body is None:
                    continue
                content = content_hash(body)
                if bytes.fromhex(content) in contents:
                    copies += 1
                    continue
                contents.add(bytes.fromhex(content))
                taken += 1
                yield kdtool.Example(
                    id=self._id_of(record, ids) if config.id_column else content,
                    body=body,
                    split=self._split_of(record, split, content),
                    language=(text_of(record, config.language_column) or config.language).lower(),
                    licence=words_of(record, config.licence_column) or config.licence,
                    source=config.dataset or "files",
                )
        if copies:
            run.say(f"hub: {copies:,} records hold the same as one before them and were left out")

    def _source(self) -> DataFiles | HubDataset:
        if self._opened is None:
            from kdtool_datasets import DataFiles, HubDataset

            config = self.config
            files = DataFiles(config.files) if config.files else None
            self._opened = files or HubDataset(config.dataset, config.config, config.revision)
        return self._opened

    def _splits(self) -> list[kdtool.Split]:
        order: tuple[kdtool.Split, ...] = ("train", "validation", "test")
        return [split for split in order if split in self.config.splits]

    def _id_of(self, record: Mapping[str, Any], known: set[bytes]) -> str:
        """Return the id that a record's column holds, whose digest must not be `known`, and add that."""
        from kdtool_corpus_hub._columns import id_of

        identifier = id_of(record, str(self.config.id_column))
        digest = hashlib.sha256(identifier.encode("utf-8", "replace")).digest()[:16]
        if digest in known:
            raise kdtool.UsageError(
                f"hub.id_column: the id {identifier!r} comes twice in column {self.config.id_column!r}; name another "
                "one, or none: then examples are called by their content"
            )
        known.add(digest)
        return identifier

    def _split_of(self, record: Mapping[str, Any], split: kdtool.Split, content: str) -> kdtool.Split:
        from kdtool_corpus_hub._columns import split_of

        if self.config.split_column is not None:
            return split_of(record, self.config.split_column)
        if split != "train":
            return split
        place = int.from_bytes(hashlib.sha256(f"split {content}".encode()).digest()[:8], "big") / 2**64
        if place < self.config.test_share:
            return "test"
        return "validation" if place < self.config.test_share + self.config.validation_share else "train"
