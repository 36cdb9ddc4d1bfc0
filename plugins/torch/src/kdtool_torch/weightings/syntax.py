"""The weighting `syntax`: the class of a token in its language (comment, keyword, name …) sets its weight.

Classes come from pygments' token types, for each character. Turns of a conversation are cut where code begins and ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import kdtool
import pydantic

if TYPE_CHECKING:
    from pygments.lexer import Lexer
    from torch import Tensor


def class_weight(classes: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weight of each position's class.

    Args:
        classes: [C] integers from 0; those without a weight count as 0.
        weights: of each class, in order, not negative.

    Returns:
        [C] float32, without unit.
    """
    table = classes.float().new_tensor(weights)
    return table[classes.where(classes < len(weights), 0)]


class Syntax(kdtool.Weighting):
    """Weighs tokens by their class in their language: keywords more, say, and comments less.

    It labels each character by pygments, as the column `syntax` of the phase's rows. A text is read in the example's
    language. In a conversation only the code between ``` is read, each piece separately, in the language named there, or
    the example's. Everything else is `other`. A token in which one class begins where another ends has the class of its
    first character that is not white space.
    """

    columns = frozenset({"syntax"})
    config: Config

    class Config(kdtool.Config):
        """The weight of each class, relative to the others."""

        language: str = kdtool.Field(default="", max_length=50)
        """The language of examples that name none, as pygments calls it (python, c++, rust …); empty for none."""
        other: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Text that is not code, or of an unknown language, and the end of a text."""
        whitespace: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """White space between tokens of the language."""
        comment: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Comments and documentation strings."""
        string: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Text in quotes."""
        number: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Numbers."""
        operator: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Operators that are signs, the dot included."""
        punctuation: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Brackets, commas, colons."""
        keyword: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Keywords, `and`, `in` and `not` included."""
        name: float = kdtool.Field(default=1.0, ge=0, le=1000)
        """Names of any kind."""

        @pydantic.field_validator("language")
        @classmethod
        def _check_language(cls, language: str) -> str:
            if language and not is_known(language):
                raise ValueError(f"unknown language {language!r}; the documentation of pygments lists the short names")
            return language

        @pydantic.model_validator(mode="after")
        def _something_weighs(self) -> Syntax.Config:
            if not any(self.of_classes):
                raise ValueError("all classes have the weight 0: nothing would be learned")
            return self

        @property
        def of_classes(self) -> list[float]:
            """The weights as they are set, in the order of `SYNTAX_CLASSES`."""
            return [getattr(self, name) for name in SYNTAX_CLASSES]

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._weights = config.of_classes
        self.label_key = config.language

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the version of pygments, since classes may differ between versions."""
        return {"pygments": version("pygments")}

    def kdtool_annotate(self, example: kdtool.Example) -> Mapping[str, bytes]:
        """Return the class of each character."""
        language = example.language or self.config.language
        return {"syntax": b"".join(syntax_classes(text, name) for text, name in _read(example.body, language))}

    def kdtool_token_weight(self, chunk: kdtool.TokenChunk) -> Tensor:
        """Return the weight of each position's class, [C]."""
        return class_weight(chunk.columns["syntax"], self._weights)


def _read(body: kdtool.Text | kdtool.Completion | kdtool.Messages, language: str) -> Iterator[tuple[str, str]]:
    """Yield the parts that are lexed separately, in order, each with its language, or "" if it is not code."""
    if isinstance(body, kdtool.Messages):
        for content in kdtool.parts_of(body):
            yield from stretches(content, language)
    else:  # a completion continues the text of its prompt
        yield "".join(kdtool.parts_of(body)), language


SYNTAX_CLASSES: tuple[str, ...] = (
    "other", "whitespace", "comment", "string", "number", "operator", "punctuation", "keyword", "name",
)  # fmt: skip
"""Classes of the column `syntax`, by number. `other` is text that is not code, or in an unknown language; documentation
strings are `comment`."""
_OTHER, _SPACE = SYNTAX_CLASSES.index("other"), SYNTAX_CLASSES.index("whitespace")
_CLASS_OF = {
    "Comment": "comment",
    "Comment.Preproc": "keyword",  # #define, <?php: directives
    "Comment.PreprocFile": "string",
    "Keyword": "keyword",
    "Literal": "string",
    "Literal.Number": "number",
    "Literal.String.Doc": "comment",
    "Name": "name",
    "Operator": "operator",
    "Operator.Word": "keyword",  # and, in, not
    "Punctuation": "punctuation",
}
"""By pygments' name of a type; a missing type has the class of its parent."""


def syntax_classes(text: str, language: str) -> bytes:
    """Return the class of each character of code, its index in `SYNTAX_CLASSES`.

    Text that begins or ends anywhere is read as it is: text that is not understood is `other`, and an unclosed comment or
    string extends to the end. White space is `whitespace` between tokens, and part of comments and strings within them.

    Args:
        text: the code, as it is in its document.
        language: a name or alias that pygments knows, in any case; for another one, and for "", all is `other`.

    Returns:
        As many bytes as `text` has characters.
    """
    lexer = _lexer(language)
    classes = bytearray([_OTHER]) * len(text)
    if lexer is not None:
        for start, kind, value in lexer.get_tokens_unprocessed(text):
            number = _class_of(kind)
            if number == _OTHER:
                classes[start : start + len(value)] = [_SPACE if letter.isspace() else _OTHER for letter in value]
            else:
                classes[start : start + len(value)] = bytes([number]) * len(value)
    return bytes(classes[: len(text)])  # one of pygments' lexers adds a line end that the text lacks


def is_known(language: str) -> bool:
    """Return whether pygments reads a language of that name."""
    return _lexer(language) is not None


@cache
def _lexer(language: str) -> Lexer | None:
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language.lower()) if language else None
    except ClassNotFound:
        return None


@cache
def _class_of(kind: Any) -> int:
    """Return the class of a token type, which is a tuple of names."""
    names = list(kind)
    while names and ".".join(names) not in _CLASS_OF:
        names.pop()
    return SYNTAX_CLASSES.index(_CLASS_OF[".".join(names)]) if names else _OTHER


_FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>[^\s`{]*)[^\n`]*(?:\n|\Z)", re.MULTILINE)


def stretches(content: str, language: str) -> Iterator[tuple[str, str]]:
    """Yield (text, language of the code that it is, or ""): together the content.

    Code is between two lines that begin with ```; if their number is odd, the text was cut, and the rest is code. The first
    of the two lines may name the code's language; the default is `language`.
    """
    start, inside = 0, False
    code_language = ""
    for fence in _FENCE.finditer(content):
        yield content[start : fence.start()], code_language if inside else ""
        yield fence[0], ""
        start, inside = fence.end(), not inside
        code_language = fence["language"] or language
    yield content[start:], code_language if inside else ""
