"""The space that some tokenizers put before every text, found in their tokenizer.json. Called by `TransformersTokenizer`.

Those in the manner of sentencepiece write "x" as "▁x", so that a word has one token at the beginning and within a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["without_space_before"]

_PARTS = {"normalizers", "pretokenizers"}
_NEVER = {"prepend_scheme": "never", "add_prefix_space": False}
"""The settings of `Metaspace` and `ByteLevel` that put no space there."""


def without_space_before(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a normalizer or pre-tokenizer that does the same but puts nothing before a text; None if nothing remains."""
    if part is None or part["type"] == "Prepend":
        return None
    changed = {
        name: [kept for each in part[name] if (kept := without_space_before(each))] for name in _PARTS & part.keys()
    }
    return {**part, **changed, **{name: value for name, value in _NEVER.items() if name in part}}
