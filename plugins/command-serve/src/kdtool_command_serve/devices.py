"""Settings of completions at a cursor: the devices that improve them, and the models that share them. Light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import kdtool

__all__ = ["Devices", "parse_shares"]


@dataclass(frozen=True)
class Devices:
    """Devices that improve completions at a cursor; docs/benchmarks/serving.md measures each.

    `healing` chooses the last token before the cursor again, `units` ends an answer with its line or block, and `syntax`
    cuts what does not parse. Of `best_of` answers the likeliest is given.
    """

    healing: bool = True
    units: bool = True
    syntax: bool = False
    best_of: int = 1


def parse_shares(given: Sequence[str], offered: Sequence[str]) -> dict[str, float]:
    """Return the share of completions by model in options such as "control=0.5".

    Raises:
        UsageError: a model is unknown or the default; or shares are not numbers from 0 to 1 together.
    """
    shares: dict[str, float] = {}
    for option in given:
        name, _, share = option.partition("=")
        if name not in offered[1:]:
            others = ", ".join(offered[1:]) or "none"
            raise kdtool.UsageError(f"--share {option}: expected a model besides {offered[0]} ({others}), as NAME=0.5")
        try:
            shares[name] = float(share)
        except ValueError:
            raise kdtool.UsageError(f"--share {option}: {share!r} is not a number; expected one from 0 to 1") from None
    if not all(0 <= share <= 1 for share in shares.values()) or sum(shares.values()) > 1:
        raise kdtool.UsageError(
            f"--share {' '.join(given)}: expected shares from 0 to 1, at most 1 together; reduce them"
        )
    return shares
