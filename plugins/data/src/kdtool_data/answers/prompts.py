"""Prompts of the corpora `answers` and `self`, and the code in a chat model's replies to them.

Prompts come from JSON Lines files, or from the examples of another corpus. A chat model gets them in a template; the
code in its reply that completes the prompt is extracted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import kdtool
import pydantic
from kdtool_measuring import Templates, Turns

from kdtool_data.lines import split_lines

_LONGEST = 4 * 2**20
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
                        prompt = _read_line(f"{path.name}:{number}", content, path.name)
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
        text = body.prompt if isinstance(body, kdtool.Completion) else "".join(split_lines(body.text)[:lines])
        if text:
            yield Prompt(example.id, text, example.language, example.licence, example.source)


def _read_line(location: str, content: bytes, source: str) -> Prompt:
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


_TEMPLATE = "template"
_FENCES = ("```", "~~~")


class Replies:
    """Requests for code in a chat, by a template, and the completions in the replies."""

    def __init__(self) -> None:
        self._templates = Templates(Path(__file__).with_name("templates"))
        self.version = self._templates.version(_TEMPLATE)

    def turns(self, prompt: Prompt) -> Turns:
        """Return the conversation that asks for a completion of the prompt."""
        return self._templates.render(_TEMPLATE, {"prompt": prompt.text.rstrip(), "language": prompt.language})

    def completion(self, prompt: Prompt, answer: kdtool.TextAnswer) -> str:
        """Return the code of a reply that continues the prompt; "" if there is none.

        Python parses together with its prompt. Code in other languages must be in a fenced block.
        """
        from kdtool_programs import code_of, completed_names, continuation_of

        python = prompt.language == "python"
        if not python and not any(fence in answer.text for fence in _FENCES):
            return ""
        names = completed_names(prompt.text) if python else ()
        code = code_of(answer.text, continues=False, names=names)
        return continuation_of(prompt.text, code, prompt.language)
