"""The corpus `hub`: records become examples, each with a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_corpus_hub._config import HubConfig

if TYPE_CHECKING:
    from kdtool_datasets import DataFiles, HubDataset

__all__ = ["Hub"]


class Hub(kdtool.Corpus):
    """One example for each record of a dataset, from the columns that the recipe names. A dataset's code is never run.

    Further copies of an example are left out, even if their ids differ. Its content determines its split and, without a
    column of ids, its id.
    """

    config: Config

    class Config(HubConfig):
        """Settings of `hub`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._opened: DataFiles | HubDataset | None = None

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the dataset's commit, or each file's SHA-256.

        Raises:
            kdtool.UsageError: the dataset does not exist, or a file cannot be read.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        return self._source().identity(offline=run.offline)

    @property
    def licence_terms(self) -> kdtool.LicenceTerms | None:
        """Return the recipe's licence, else where to read the dataset's; the user is responsible for that of files."""
        if self.config.licence:
            return kdtool.LicenceTerms(self.config.licence)
        if not self.config.dataset:
            return None
        return kdtool.LicenceTerms(
            "as named on its data card", url=f"https://huggingface.co/datasets/{self.config.dataset}"
        )

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report missing files."""
        return [f"files: no such file: {path.absolute()}" for path in self.config.files if not path.exists()]

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the examples, split by split, and report the numbers of records that were left out.

        Raises:
            kdtool.UsageError: a column is missing or has the wrong type, an id is not unique, or data cannot be read.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        from kdtool_corpus_hub._columns import body_of, content_hash, text_of, words_of
        from kdtool_corpus_hub._licences import is_allowed

        config = self.config
        contents, ids, copies, foreign = set[bytes](), set[bytes](), 0, 0
        shuffled: dict[str, Any] = {"shuffle_buffer": config.shuffle_buffer, "seed": config.seed}
        for split in self._splits():
            taken = 0
            for record in self._source().records(config.splits[split], offline=run.offline, **shuffled):
                if config.maximum_examples is not None and taken >= config.maximum_examples:
                    break
                body = body_of(record, config)
                if body is None:
                    continue
                licence = words_of(record, config.licence_column) or config.licence
                if config.licences and not is_allowed(licence, config.licences):
                    foreign += 1
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
                    licence=licence,
                    source=config.dataset or "files",
                )
        if foreign:
            run.say(
                f"hub: {foreign:,} records have another licence than {', '.join(config.licences)} and were left out"
            )
        if copies:
            run.say(f"hub: {copies:,} records repeat an earlier one and were left out")

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
        """Return the id in a record's column; add its digest to `known`; raise if it is there already."""
        from kdtool_corpus_hub._columns import id_of

        identifier = id_of(record, str(self.config.id_column))
        digest = hashlib.sha256(identifier.encode("utf-8", "replace")).digest()[:16]
        if digest in known:
            raise kdtool.UsageError(
                f"hub.id_column: the id {identifier!r} is not unique in column {self.config.id_column!r}; name another "
                "column, or remove id_column: examples then get hashes of their content as ids"
            )
        known.add(digest)
        return identifier

    def _split_of(self, record: Mapping[str, Any], split: kdtool.Split, content: str) -> kdtool.Split:
        from kdtool_corpus_hub._columns import split_of

        if self.config.split_column is not None:
            return split_of(record, self.config.split_column)
        if split != "train":
            return split
        fraction = int.from_bytes(hashlib.sha256(f"split {content}".encode()).digest()[:8], "big") / 2**64
        if fraction < self.config.test_share:
            return "test"
        return "validation" if fraction < self.config.test_share + self.config.validation_share else "train"
