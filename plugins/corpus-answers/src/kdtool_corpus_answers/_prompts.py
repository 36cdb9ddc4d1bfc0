"""Prompts: from JSON Lines files, or from the examples of another corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import kdtool
import pydantic

__all__ = ["Prompt", "digest", "from_corpus", "from_files"]

_LONGEST = 64 * 2**20
"""Bytes of the longest line that is read: a file without line breaks must not fill the memory."""


@dataclass(frozen=True)
class Prompt:
    """A text to answer, with the metadata that is known."""

    id: str
    text: str
    language: str = ""
    licence: str = ""
    source: str = ""


class _Line(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    prompt: str = pydantic.Field(min_length=1)
    id: str | int | None = None
    language: str = ""
    licence: str = ""


def digest(path: Path) -> str:
    """Return a file's SHA-256.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def from_files(paths: Iterable[Path]) -> Iterator[Prompt]:
    """Yield the prompts of JSON Lines files; a line without an id is called "file name:line".

    Raises:
        UsageError: a file cannot be read, a line is not such an object, or an id occurs twice.
    """
    seen: set[str] = set()
    for path in paths:
        try:
            with path.open("rb") as file:
                for number, content in enumerate(iter(partial(file.readline, _LONGEST + 1), b""), 1):
                    if len(content) > _LONGEST:
                        most = f"{_LONGEST // 2**20} MiB"
                        raise kdtool.UsageError(f"{path.name}:{number}: the line is longer than {most}")
                    if content.strip():
                        prompt = _read(f"{path.name}:{number}", content, path.name)
                        if prompt.id in seen:
                            raise kdtool.UsageError(f"{path.name}:{number}: the id {prompt.id!r} was given before")
                        seen.add(prompt.id)
                        yield prompt
        except OSError as error:
            raise _unreadable(path, error) from error


def from_corpus(examples: Iterable[kdtool.Example], lines: int) -> Iterator[Prompt | kdtool.Example]:
    """Yield the prompts of training examples, and examples of other splits unchanged.

    Raises:
        UsageError: an example is a conversation, which has no single prompt.
    """
    for example in examples:
        body = example.body
        if example.split != "train":
            yield example
            continue
        if isinstance(body, kdtool.Messages):
            raise kdtool.UsageError(
                f"the example {example.id!r} is a conversation: give prompts, prompts with completions, or plain text"
            )
        text = body.prompt if isinstance(body, kdtool.Completion) else _beginning(body.text, lines)
        if text:
            yield Prompt(example.id, text, example.language, example.licence, example.source)


def _beginning(text: str, lines: int) -> str:
    return "".join(islice(text.splitlines(keepends=True), lines))


def _read(location: str, content: bytes, source: str) -> Prompt:
    try:
        line = _Line.model_validate_json(content.removeprefix(b"\xef\xbb\xbf"))
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        raise kdtool.UsageError(f"{location}: {f'{field}: ' if field else ''}{problem['msg']}") from None
    identifier = location if line.id is None else str(line.id)
    return Prompt(identifier, line.prompt, line.language.lower(), line.licence, source)


def _unreadable(path: Path, error: OSError) -> kdtool.UsageError:
    return kdtool.UsageError(f"answers.prompts: {path} cannot be read: {error.strerror or error}")
