"""A turn of a conversation, cut where code begins and ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["stretches"]

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?P<language>[^\s`{]*)[^\n`]*(?:\n|\Z)", re.MULTILINE)


def stretches(content: str, language: str) -> Iterator[tuple[str, str]]:
    """Yield (text, language of the code that it is, or ""): together the content.

    Code stands between two lines that begin with ```, or behind the last one of an odd number: a cut text. The first of the
    two may name its language, else it is `language`.
    """
    start, inside = 0, False
    spoken = ""
    for fence in _FENCE.finditer(content):
        yield content[start : fence.start()], spoken if inside else ""
        yield fence[0], ""
        start, inside = fence.end(), not inside
        spoken = fence["language"] or language
    yield content[start:], spoken if inside else ""
