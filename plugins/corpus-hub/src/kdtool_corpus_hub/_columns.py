"""Turn a record's columns into the parts of an example. The corpus calls this per record; errors name the column."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import kdtool

if TYPE_CHECKING:
    from kdtool_corpus_hub._config import HubConfig

__all__ = ["body_of", "content_hash", "id_of", "split_of", "text_of", "words_of"]

Record = Mapping[str, Any]
Body = kdtool.Text | kdtool.Completion | kdtool.Messages
_ROLES = {"human": "user", "gpt": "assistant"}
"""Names of roles in ShareGPT's format."""


def body_of(record: Record, config: HubConfig) -> Body | None:
    """Return the body of a record's example; None if it is empty."""
    if config.messages_column is not None:
        turns = _turns(_value(record, config.messages_column), config.messages_column)
        return kdtool.Messages(turns) if any(content for _, content in turns) else None
    if config.prompt_column is not None and config.chosen_column is not None:
        names = (config.prompt_column, config.chosen_column, config.rejected_column)
        prompt, chosen, rejected = (text_of(record, name) for name in names)
        return kdtool.Preference(prompt, chosen, rejected) if chosen and rejected else None
    if config.prompt_column is not None:
        prompt, completion = text_of(record, config.prompt_column), text_of(record, config.completion_column)
        needed = prompt if config.completion_column is None else completion
        return kdtool.Completion(prompt, completion) if needed else None
    text = text_of(record, config.text_column)
    return kdtool.Text(text) if text else None


def content_hash(body: Body) -> str:
    """Return a hash of a record's body: equal only for copies."""
    return hashlib.sha256(repr(body).encode("utf-8", "replace")).hexdigest()[:32]


def id_of(record: Record, column: str) -> str:
    """Return the id in a record's column."""
    value = _value(record, column)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise _wrong(column, value, "an id: text or a whole number")
    return str(value)


def split_of(record: Record, column: str) -> kdtool.Split:
    """Return the split in a record's column."""
    value = _value(record, column)
    if value not in get_args(kdtool.Split):
        raise _wrong(column, value, "train, validation or test")
    split: kdtool.Split = value
    return split


def text_of(record: Record, column: str | None) -> str:
    """Return a column's text; "" without a column, or if the record has no value in it."""
    value = None if column is None else _value(record, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(str(column), value, "text")
    return value


def words_of(record: Record, column: str | None) -> str:
    """Return a column's text, or the texts of its list as an SPDX expression in which all apply."""
    value = None if column is None else _value(record, column)
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return " AND ".join(dict.fromkeys(value))
    return text_of(record, column)


def _turns(value: Any, column: str) -> tuple[tuple[str, str], ...]:
    form = "a list of turns with the texts `role` and `content`, or `from` and `value`"
    if not isinstance(value, list | tuple) or not value:
        raise _wrong(column, value, form)
    turns = []
    for message in value:
        pair = None
        if isinstance(message, Mapping):
            role, content = (
                message.get(key, message.get(sharegpt_key))
                for key, sharegpt_key in (("role", "from"), ("content", "value"))
            )
            pair = (role, content) if isinstance(role, str) and isinstance(content, str) else None
        if pair is None:
            raise _wrong(column, message, form)
        turns.append((_ROLES.get(pair[0], pair[0]), pair[1]))
    return tuple(turns)


def _value(record: Record, column: str) -> Any:
    if column not in record:
        raise kdtool.UsageError(f"hub: there is no column {column!r}; there are {', '.join(sorted(record))}")
    return record[column]


def _wrong(column: str, value: Any, expected: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"hub: column {column!r} contains {_describe(value)}, not {expected}")


def _describe(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
