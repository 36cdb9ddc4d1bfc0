"""Lines as Python's parser counts them."""

from __future__ import annotations

import io


def split_lines(text: str) -> list[str]:
    """Return the lines with their ends: LF, CR LF or CR. Text may contain the other characters of `str.splitlines`."""
    return list(io.StringIO(text, newline=""))
