"""The classes of the column `syntax`, which annotators that read code give and weightings read."""

from __future__ import annotations

__all__ = ["SYNTAX_CLASSES"]

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
"""What the numbers of the column `syntax` mean: a class's place here. `other` is text that is no code, or of a language that
is not known; documentation strings are `comment`. New classes are added behind."""
