"""Names of runs and of a recipe's components, and names derived from other text, such as a file's or a model's."""

from __future__ import annotations

import hashlib
import re
import unicodedata

TRACKER_THREAD = "kdtool tracker "
"""The beginning of the names of trackers' threads."""
_LONGEST = 64
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}")
VALID_NAME = f"a name of up to {_LONGEST} letters, digits, - or _ that starts with a letter or digit"
"""The names that match `NAME`, for messages."""


def name_from(text: str, word: str, *, dots: bool = False, apart: str = "") -> str:
    """Return text as a name that is valid in recipes and on every file system, with `-` for other characters.

    If letters are lost, or it would be too long, a hash of the whole follows.

    Args:
        text: the source of the name.
        word: the name if no character of the text is left.
        dots: keep `.`, as in the names of models.
        apart: distinguishes names of the same text; such a name always has a hash.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(rf"[^A-Za-z0-9_{'.' if dots else ''}-]+", "-", plain).strip("-_.") or word
    if text.isascii() and len(plain) <= _LONGEST and not apart:
        return plain
    digest = hashlib.sha256((text + apart).encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{plain[: _LONGEST - 9].rstrip('-_.')}-{digest}"
