"""The corpus `jsonl`: examples from JSON Lines files, plain or gzip.

A line is an object. The format of its example follows from its fields. Errors in a line are reported with file and
line.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import kdtool
import pydantic

_LONGEST = 4 * 2**20
"""Bytes of the longest line that is read: while a text is encoded, each of its tokens takes more than 100 bytes."""


class JsonLines(kdtool.Corpus):
    """One example for each line of the files: messages, a preference, a prompt with or without completion, or text.

    If a line has fields of several formats, the first of this list applies.
    """

    config: Config

    class Config(kdtool.Config):
        """Settings of `jsonl`."""

        files: tuple[kdtool.RecipePath, ...] = kdtool.Field(min_length=1)
        """Files to read in this order, relative to the recipe; `.gz` is unpacked. Names must differ."""
        text_field: str = "text"
        """Field with plain text, every token of which is learned."""
        prompt_field: str = "prompt"
        """Field with a prompt; a line without completion is a prompt without an answer, for on-policy training."""
        completion_field: str = "completion"
        """Field with the completion of a prompt."""
        chosen_field: str = "chosen"
        """Field with the better of two completions of a prompt; its line must have the rejected field, too."""
        rejected_field: str = "rejected"
        """Field with the worse of two completions of a prompt."""
        messages_field: str = "messages"
        """Field with a conversation: a list of objects with `role` and `content`; its tools are in the field `tools`."""
        id_field: str = "id"
        """Field with an id, unique over all files; a line without it is called "file name:line"."""
        split_field: str = "split"
        """Field with "train", "validation" or "test"; a line without it goes to `split`."""
        language_field: str = "language"
        """Field with the programming language; a line without it has `language`."""
        licence_field: str = "licence"
        """Field with an SPDX expression; a line without it has `licence`."""
        split: kdtool.Split = "train"
        """Split of lines that name none."""
        language: str = ""
        """Language of lines that name none."""
        licence: str = ""
        """Licence of lines that name none."""

        @pydantic.field_validator("files")
        @classmethod
        def _names_differ(cls, files: tuple[kdtool.RecipePath, ...]) -> tuple[Path, ...]:
            if len({path.name for path in files}) < len(files):
                raise ValueError("two files have the same name, and the run records files by name; rename one")
            return files

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return each file's SHA-256."""
        return {path.name: _digest(path) for path in self.config.files}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report missing files."""
        return [f"files: no such file: {path.absolute()}" for path in self.config.files if not path.exists()]

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        """Yield the examples, line by line.

        Raises:
            kdtool.UsageError: a file is missing, or a line is invalid.
        """
        seen: set[str] = set()
        for path in self.config.files:
            for location, record in _records(path):
                example = _Line(location, record, self.config).example()
                if example.id in seen:
                    raise kdtool.UsageError(f"{location}: the id {example.id!r} was given before; ids must be unique")
                seen.add(example.id)
                yield example


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise kdtool.UsageError(f"jsonl.files: {path} cannot be read: {error.strerror or error}") from error


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file name:line", object) for each line that is not empty."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST + 1), b""), 1):
                if len(line) > _LONGEST:
                    most = f"{_LONGEST // 2**20} MiB"
                    raise kdtool.UsageError(
                        f"{path.name}:{number}: the line is longer than {most}; write one example on each line"
                    )
                if line.strip():
                    yield f"{path.name}:{number}", _object(f"{path.name}:{number}", line)
    except (OSError, EOFError, zlib.error) as error:
        raise kdtool.UsageError(f"jsonl.files: {path} cannot be read: {error}") from error


def _object(location: str, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise kdtool.UsageError(f"{location}:{error.colno}: not JSON: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise kdtool.UsageError(f"{location}: not JSON in UTF-8: {error}") from error
    if not isinstance(record, dict):
        raise kdtool.UsageError(f"{location}: expected an object, found {type(record).__name__}")
    return record


class _Line:
    """One line with its location, parsed by the field names in the config."""

    def __init__(self, location: str, record: dict[str, Any], config: JsonLines.Config) -> None:
        self._location = location
        self._record = record
        self._config = config

    def example(self) -> kdtool.Example:
        config = self._config
        split = self._text(config.split_field, config.split)
        if split not in get_args(kdtool.Split):
            raise self._wrong(config.split_field, f'must be "train", "validation" or "test", not {split!r}')
        return kdtool.Example(
            id=self._text(config.id_field, self._location) or self._location,
            body=self._body(),
            split=split,  # type: ignore[arg-type]
            language=self._text(config.language_field, config.language).lower(),
            licence=self._text(config.licence_field, config.licence),
            source=self._location.rpartition(":")[0],
        )

    def _body(self) -> kdtool.Text | kdtool.Completion | kdtool.Messages:
        config, record = self._config, self._record
        if config.messages_field in record:
            return self._messages()
        if config.prompt_field in record and config.chosen_field in record:
            names = (config.prompt_field, config.chosen_field, config.rejected_field)
            return kdtool.Preference(*(self._text(name) for name in names))
        if config.prompt_field in record:
            absent = None if config.rejected_field in record else ""
            return kdtool.Completion(self._text(config.prompt_field), self._text(config.completion_field, absent))
        if config.text_field in record:
            return kdtool.Text(self._text(config.text_field))
        raise kdtool.UsageError(
            f"{self._location}: found none of the fields {config.messages_field!r}, {config.prompt_field!r} and "
            f"{config.text_field!r}, only {sorted(record)}; name yours by messages_field, prompt_field or text_field"
        )

    def _messages(self) -> kdtool.Messages:
        name, record = self._config.messages_field, self._record
        try:
            found = kdtool.Messages.of(record[name], record.get("system"), record.get("tools"))
        except ValueError as error:
            raise self._wrong(name, f"cannot be used: {error}") from None
        self._whole(name, "".join((*(role for role, _ in found.turns), *kdtool.parts_of(found))))
        return found

    def _text(self, name: str, otherwise: str | None = None) -> str:
        value = self._record.get(name)
        value = otherwise if value is None else value
        if name == self._config.id_field and isinstance(value, int):
            return str(value)
        if not isinstance(value, str):
            found = "is missing" if value is None else f"must be text, not {type(value).__name__}"
            raise self._wrong(name, found)
        return self._whole(name, value)

    def _whole(self, name: str, text: str) -> str:
        """Return the text unchanged; raise if it has an unpaired surrogate, which JSON can express but UTF-8 cannot."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise self._wrong(name, f"contains an unpaired surrogate, {half}; remove it") from None
        return text

    def _wrong(self, name: str, what: str) -> kdtool.UsageError:
        return kdtool.UsageError(f"{self._location}: field {name!r} {what}")
