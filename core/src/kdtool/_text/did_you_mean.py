"""Suggestions for misspelt names of components, recipe keys, hooks and commands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str], *, what: str = "known", shown: int = 8) -> str:
    """Return the names in `known` that are close to `given` or that it abbreviates, or else the first `shown` of them.

    "" if there are none.
    """
    names = sorted(set(known))
    close = get_close_matches(given, names, n=2, cutoff=0.6) or [name for name in names if _initials(name) == given]
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    if not names:
        return ""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what}: {', '.join(names[:shown])}{rest}"


def _initials(name: str) -> str:
    return "".join(word[:1] for word in re.split("[_-]", name))
