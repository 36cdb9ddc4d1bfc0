"""Classes of code: their names, and the class of each character, from pygments' token types."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygments.lexer import Lexer

__all__ = ["SYNTAX_CLASSES", "is_known", "syntax_classes"]

SYNTAX_CLASSES: tuple[str, ...] = (
    "other",
    "whitespace",
    "comment",
    "string",
    "number",
    "operator",
    "punctuation",
    "keyword",
    "name",
)
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
