"""Stored answers: a `kdtool.TextAnswer` as JSON, and the hash of that text."""

from __future__ import annotations

import hashlib
import json

import kdtool

__all__ = ["digest", "is_answer", "is_unchanged"]

_KINDS = {"id": str, "text": str, "finish": str, "tokens_in": int, "tokens_out": int, "picodollars": int, "reason": str}


def digest(text: str) -> str:
    """Return the hash that is stored with a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def is_unchanged(text: object, stored: object) -> bool:
    """Return whether a text is the one that was stored with this hash."""
    return isinstance(text, str) and digest(text) == stored


def is_answer(text: str) -> bool:
    """Return whether a text is an answer that kdtool can read."""
    try:
        fields = vars(kdtool.TextAnswer(**json.loads(text)))
    except (TypeError, ValueError, RecursionError):
        return False
    return all(type(fields[name]) is kind for name, kind in _KINDS.items())
