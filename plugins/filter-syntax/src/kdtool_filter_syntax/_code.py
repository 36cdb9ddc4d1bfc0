"""Find the code in an example: the whole program, or the fenced blocks of an answer in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from textwrap import dedent
from typing import NamedTuple

import kdtool

__all__ = ["Code", "code_of", "fenced_code"]

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[^\s`{]*)[^\n`]*$", re.MULTILINE)


class Code(NamedTuple):
    """A piece of code: `texts` are the ways to read it, one of which must parse."""

    texts: tuple[str, ...]
    language: str
    """The language that the block or else the example names; "" if neither does."""


def code_of(example: kdtool.Example) -> Iterator[Code]:
    """Yield the code that a student learns from an example.

    In a conversation these are the fenced blocks of the assistant's messages, in a completion its fenced blocks. If a
    completion has none, it is code itself, with or without its prompt. A text with a language is code as a whole; a text
    without one may have fenced blocks. Prompts, users' messages and rejected answers are skipped: they may be broken on
    purpose.
    """
    body = example.body
    if isinstance(body, kdtool.Messages):
        for role, content in body.turns:
            if role == "assistant":
                yield from fenced_code(content, example.language)
    elif isinstance(body, kdtool.Completion):
        if not body.completion:  # a prompt without an answer
            return
        blocks = list(fenced_code(body.completion, example.language))
        yield from blocks or [Code((body.prompt + body.completion, body.completion), example.language)]
    elif example.language:
        yield Code((body.text,), example.language)
    else:
        yield from fenced_code(body.text, "")


def fenced_code(text: str, language: str) -> Iterator[Code]:
    """Yield the fenced blocks of a Markdown text, without common indentation; `language` applies to blocks that name none.

    A block that is not closed ends with the text.
    """
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence["marks"].startswith(opened["marks"]) and not fence["language"]:
            yield _block(opened, text[opened.end() : fence.start()], language)
            opened = None
    if opened is not None:
        yield _block(opened, text[opened.end() :], language)


def _block(fence: re.Match[str], content: str, language: str) -> Code:
    return Code((dedent(content.removeprefix("\n")),), fence["language"] or language)
