"""The filter `syntax`: rejects code that does not parse.

The code of an example is its whole text, or the fenced blocks of an answer in Markdown. Python is parsed by its own
compiler, other languages by tree-sitter, with a grammar from a wheel for each.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import version
from platform import python_version
from textwrap import dedent
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import kdtool

if TYPE_CHECKING:
    from tree_sitter import Parser

Language = Literal["python", "cpp", "go", "java", "javascript", "rust"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""Languages that can be checked."""


class SyntaxFilter(kdtool.Filter):
    """Rejects examples with code that does not parse in its language; code in other languages passes unchecked.

    Python is compiled and not executed, the others are parsed by tree-sitter. A text in one of the languages is parsed as a
    whole; in answers in Markdown, each fenced block is parsed.
    """

    extra = "syntax"

    class Config(kdtool.Config):
        """Settings of `syntax`."""

        languages: tuple[Language, ...] = kdtool.Field(default=LANGUAGES, min_length=1)
        """Languages to check; code in others passes."""
        language: Language | None = None
        """Language of code that does not name one; null lets such code pass."""

    config: Config

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the versions of Python and of the grammars, which may change the verdicts."""
        grammars = [name for name in self.config.languages if name != "python"]
        versions = {f"tree-sitter-{name}": version(f"tree-sitter-{name}") for name in grammars}
        return {**versions, **({"python": python_version()} if "python" in self.config.languages else {})}

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the language of the first code that does not parse, as `python does not parse`, or None."""
        return [self._filter(example) for example in examples]

    def _filter(self, example: kdtool.Example) -> str | None:
        for code in code_of(example):
            language = language_of(code.language) if code.language else self.config.language
            if language in self.config.languages and not any(parses(text, language) for text in code.texts):
                return f"{language} does not parse"
        return None


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
        for (_, content), learned in zip(body.turns, body.targets, strict=True):
            if learned:
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


ALIASES = {
    "c++": "cpp",
    "cc": "cpp",
    "cxx": "cpp",
    "golang": "go",
    "js": "javascript",
    "jsx": "javascript",
    "node": "javascript",
    "py": "python",
    "python3": "python",
    "rs": "rust",
}
"""Names in `LANGUAGES` of other names of languages."""


def language_of(name: str) -> str:
    """Return the name in `LANGUAGES` of a language or its abbreviation, such as `py` or `C++`; "" for others."""
    lower = name.strip().lower()
    language = ALIASES.get(lower, lower)
    return language if language in LANGUAGES else ""


def parses(code: str, language: str) -> bool:
    """Return whether code parses in one of `LANGUAGES`; nothing is executed."""
    if language == "python":
        return _is_python(code)
    if language == "cpp":  # tree-sitter-cpp 0.23 rejects typeid(int), but accepts sizeof for types and values
        code = re.sub(r"\btypeid\b", "sizeof", code)
    try:
        tree = _parser(language).parse(code.encode())
    except UnicodeEncodeError:
        return False
    return not tree.root_node.has_error


def _is_python(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about invalid escapes, and about `is` with literals
        try:
            compile(code, "<example>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            return False  # a null character is a ValueError in Python 3.11; nesting too deep a RecursionError or MemoryError
    return True


@cache
def _parser(language: str) -> Parser:
    import tree_sitter

    return tree_sitter.Parser(tree_sitter.Language(import_module(f"tree_sitter_{language}").language()))
