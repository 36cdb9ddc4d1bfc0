"""The corpus `hub`: a dataset of the Hugging Face Hub as a stream, or local data files.

`kdtool_data.records` locates and reads the records. Their columns become the parts of examples, and errors name the
column.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import kdtool
import pydantic

if TYPE_CHECKING:
    from kdtool_data.records import DataFiles, HubDataset, Record


class HubConfig(kdtool.Config):
    """Settings of `hub`."""

    dataset: str = ""
    """Name on the Hub, as `owner/name`; or give `files`."""
    files: tuple[kdtool.RecipePath, ...] = ()
    """Local data files of one format instead: .parquet, .jsonl, .json, .arrow, .csv (all cells are text). Their names must
    differ."""
    config: str | None = None
    """Configuration of the dataset; null selects its only or default one."""
    revision: str | None = None
    """Branch, tag or commit of the dataset; null selects the newest. The run records the commit."""
    splits: Mapping[kdtool.Split, str] = kdtool.Field(default={"train": "train"}, min_length=1)
    """The dataset's split to use for each of `train`, `validation` and `test`. Local files have only one: `train`."""
    text_column: str | None = None
    """Column with plain text, every token of which is learned."""
    prompt_column: str | None = None
    """Column with prompts; goes with `completion_column`, or with `chosen_column` and `rejected_column`. Alone, it gives
    prompts without answers, for on-policy training."""
    completion_column: str | None = None
    """Column with completions; only these are learned, not the prompts."""
    chosen_column: str | None = None
    """Column with the better of two completions of a prompt, as text."""
    rejected_column: str | None = None
    """Column with the worse of two completions of a prompt, as text."""
    messages_column: str | None = None
    """Column with conversations: lists of `role` and `content`, or of `from` and `value` as ShareGPT has them."""
    id_column: str | None = None
    """Column with an id, unique in all splits; null uses a hash of the content as the id."""
    split_column: str | None = None
    """Column with train, validation or test; null uses the split that the record is read from."""
    language_column: str | None = None
    """Column with the programming language; null uses `language`."""
    licence_column: str | None = None
    """Column with an SPDX expression, or a list of licences that all apply; null uses `licence`."""
    licences: tuple[str, ...] = ()
    """Use only records with one of these licences in `licence_column`, such as [mit, my-licence]; `permissive` stands for
    the usual licences without copyleft (MIT, Apache-2.0, BSD, ISC and a few more). Empty: records with any licence."""
    language: str = ""
    """Language of all examples if there is no column for it."""
    licence: str = ""
    """SPDX expression for all examples if there is no column for it."""
    validation_share: float = kdtool.Field(default=0.0, ge=0, le=0.5)
    """Share of the examples of `train`, selected by a hash of their content, for choosing settings."""
    test_share: float = kdtool.Field(default=0.0, ge=0, le=0.49)
    """Share of the examples of `train`, selected by a hash of their content, for scoring at the end."""
    maximum_examples: int | None = kdtool.Field(default=10_000, ge=1)
    """Maximum number of examples from the start of each split; null reads all."""
    shuffle_buffer: int | None = kdtool.Field(default=None, ge=2)
    """Number of records to buffer and sample from at random; null keeps the order. `maximum_examples` counts afterwards."""
    seed: int = kdtool.Field(default=0, ge=0, le=2**32 - 1)
    """Seed of the shuffle. It never changes an example's split."""

    @pydantic.model_validator(mode="after")
    def _has_one_source_and_one_form(self) -> HubConfig:
        if bool(self.dataset) == bool(self.files):
            raise ValueError("needs `dataset`, a name on the Hub, or `files`, and not both")
        if self.files and (self.config or self.revision or set(self.splits.items()) != {("train", "train")}):
            raise ValueError(
                "`config`, `revision` and `splits` apply to datasets on the Hub, not to `files`; remove them"
            )
        if len({path.name for path in self.files}) < len(self.files):
            raise ValueError("two files have the same name, and the run records files by name; rename one")
        if (self.chosen_column is None) != (self.rejected_column is None):
            raise ValueError("`chosen_column` and `rejected_column` go together")
        if self.licences and self.licence_column is None:
            raise ValueError("`licences` selects records by their licence: name its column in `licence_column`")
        answers = [self.completion_column, self.chosen_column].count(None)
        if not answers or (answers == 1 and self.prompt_column is None):
            raise ValueError(
                "`completion_column`, or `chosen_column` and `rejected_column`, goes together with `prompt_column`"
            )
        if [self.text_column, self.prompt_column, self.messages_column].count(None) != 2:
            raise ValueError(
                "name the columns of one format: text_column, or prompt_column and completion_column, or prompt_column, "
                "chosen_column and rejected_column, or only prompt_column, or messages_column"
            )
        return self


class Hub(kdtool.Corpus):
    """One example for each record of a dataset, from the columns that the recipe names. A dataset's code is never run.

    Further copies of an example are left out, even if their ids differ. Its content determines its split and, without a
    column of ids, its id.
    """

    extra = "hub"

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
        config = self.config
        contents, ids, copies, foreign = set[bytes](), set[bytes](), 0, 0
        without, first = Counter[str](), dict[str, str]()
        shuffled: dict[str, Any] = {"shuffle_buffer": config.shuffle_buffer, "seed": config.seed}
        order: tuple[kdtool.Split, ...] = ("train", "validation", "test")
        for split in (each for each in order if each in config.splits):
            taken = 0
            for record in self._source().records(config.splits[split], offline=run.offline, **shuffled):
                if config.maximum_examples is not None and taken >= config.maximum_examples:
                    break
                body = body_of(record, config)
                if isinstance(body, str):
                    without[body] += 1
                    first.setdefault(body, record.place)
                    continue
                licence = words_of(record, config.licence_column) or config.licence
                if config.licences and not is_allowed(licence, config.licences):
                    foreign += 1
                    continue
                content = hashlib.sha256(repr(body).encode("utf-8", "replace")).hexdigest()[:32]
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
        for column, example in first.items():
            records = kdtool.count_of(without[column], "record")
            run.say(f"hub: left out {records} without a value in column {column!r}, such as {example}")
        if foreign:
            records = kdtool.count_of(foreign, "record")
            run.say(f"hub: left out {records} with another licence than {', '.join(config.licences)}")
        if copies:
            run.say(f"hub: left out {kdtool.count_of(copies, 'copy', 'copies')} of earlier records")

    def _source(self) -> DataFiles | HubDataset:
        if self._opened is None:
            from kdtool_data.records import DataFiles, HubDataset

            config = self.config
            files = DataFiles(config.files) if config.files else None
            self._opened = files or HubDataset(config.dataset, config.config, config.revision)
        return self._opened

    def _id_of(self, record: Record, known: set[bytes]) -> str:
        """Return the id in a record's column; add its digest to `known`; raise if it is there already."""
        column = str(self.config.id_column)
        value = _value(record, column)
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise _wrong(record, column, "an id: text or a whole number")
        identifier = str(value)
        digest = hashlib.sha256(identifier.encode("utf-8", "replace")).digest()[:16]
        if digest in known:
            raise kdtool.UsageError(
                f"hub.id_column: the id {identifier!r} is not unique in column {column!r}; name another "
                "column, or remove id_column: examples then get hashes of their content as ids"
            )
        known.add(digest)
        return identifier

    def _split_of(self, record: Record, split: kdtool.Split, content: str) -> kdtool.Split:
        if (column := self.config.split_column) is not None:
            named: kdtool.Split = _value(record, column)
            if named not in get_args(kdtool.Split):
                raise _wrong(record, column, "train, validation or test")
            return named
        if split != "train":
            return split
        fraction = int.from_bytes(hashlib.sha256(f"split {content}".encode()).digest()[:8], "big") / 2**64
        if fraction < self.config.test_share:
            return "test"
        return "validation" if fraction < self.config.test_share + self.config.validation_share else "train"


Body = kdtool.Text | kdtool.Completion | kdtool.Messages


def body_of(record: Record, config: HubConfig) -> Body | str:
    """Return the body of a record's example; the name of a column that has no value, if one needs it."""
    if config.messages_column is not None:
        messages = _messages(record, config.messages_column)
        return messages if messages and any(content for _, content in messages.turns) else config.messages_column
    answers = (config.completion_column, config.chosen_column, config.rejected_column)
    columns = [name for name in (config.text_column, config.prompt_column, *answers) if name is not None]
    texts = [text_of(record, name) for name in columns]
    for name, text in zip(columns, texts, strict=True):
        is_optional = name == config.prompt_column and len(columns) > 1
        if not text and (record[name] is None or not is_optional):
            return name
    if config.text_column is not None:
        return kdtool.Text(*texts)
    if config.chosen_column is not None:
        return kdtool.Preference(*texts)
    return kdtool.Completion(texts[0], "".join(texts[1:]))


def text_of(record: Record, column: str | None) -> str:
    """Return a column's text; "" without a column, or if the record has no value in it."""
    value = None if column is None else _value(record, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(record, str(column), "text; save a copy with text in this column, or name another one")
    return value


def words_of(record: Record, column: str | None) -> str:
    """Return a column's text, or the texts of its list as an SPDX expression in which all apply."""
    value = None if column is None else _value(record, column)
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return " AND ".join(dict.fromkeys(value))
    return text_of(record, column)


def _messages(record: Record, column: str) -> kdtool.Messages | None:
    """Return a record's conversation; None if it has no value."""
    value = _value(record, column)
    try:
        found = [_without_nulls(each) for each in (value, record.get("system"), record.get("tools"))]
        return kdtool.Messages.of(*found) if value not in (None, []) else None
    except ValueError as error:
        raise kdtool.UsageError(f"hub: {record.place}: column {column!r} cannot be used: {error}") from None


def _without_nulls(data: Any) -> Any:
    """Return nested data without its null fields: tables give every record of a column the fields of all."""
    if isinstance(data, Mapping):
        return {name: _without_nulls(value) for name, value in data.items() if value is not None}
    return [_without_nulls(value) for value in data] if isinstance(data, list | tuple) else data


def _value(record: Record, column: str) -> Any:
    if column not in record:
        raise kdtool.UsageError(
            f"hub: {record.place}: there is no column {column!r}; there are {', '.join(sorted(record))}"
        )
    return record[column]


def _wrong(record: Record, column: str, expected: str) -> kdtool.UsageError:
    text = repr(record[column])
    shown = text if len(text) <= 60 else f"{text[:57]}…"
    return kdtool.UsageError(f"hub: {record.place}: column {column!r} contains {shown}, not {expected}")


PERMISSIVE = frozenset({
    "0bsd", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc0-1.0", "isc", "mit", "mit-0", "python-2.0",
    "unlicense", "zlib",
})  # fmt: skip
"""SPDX identifiers of licences without copyleft, in lower case."""


def is_allowed(licence: str, allowed: Collection[str]) -> bool:
    """Return whether each part of `licence`, joined by AND, is in `allowed`, which may contain `permissive`.

    Case does not matter. A licence that is unknown ("") is not allowed.
    """
    names = {name.lower() for name in allowed}
    if "permissive" in names:
        names |= PERMISSIVE
    return bool(licence) and all(part.strip().lower() in names for part in licence.split(" AND "))
