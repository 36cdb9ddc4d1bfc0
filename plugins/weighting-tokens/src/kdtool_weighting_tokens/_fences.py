"""A turn of a conversation, cut where code begins and ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["stretches"]

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
