"""Did-you-mean, for component names, recipe keys, hooks and commands alike."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str], *, what: str = "known", shown: int = 8) -> str:
    """Say which of `known` is meant by `given`, or list what there is, cut to `shown` entries; "" if there is nothing."""
    names = sorted(set(known))
    close = get_close_matches(given, names, n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    if not names:
        return ""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what}: {', '.join(names[:shown])}{more}"
