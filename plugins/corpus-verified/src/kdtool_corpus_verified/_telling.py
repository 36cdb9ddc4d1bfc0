"""What came of all attempts, in a line for the user; or why nothing can be learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import kdtool

from kdtool_corpus_verified._attempts import Attempt

if TYPE_CHECKING:
    from kdtool_corpus_verified import Verified

__all__ = ["told"]

_REASONS = 4
"""So many are told, the commonest first."""


def told(config: Verified.Config, attempts: Mapping[str, Sequence[Attempt]], examples: int) -> str:
    """Return how many answers passed, and why others did not.

    Args:
        config: who was asked for what.
        attempts: at each problem.
        examples: how many are given.

    Raises:
        UsageError: there is none.
    """
    each = [one for found in attempts.values() for one in found]
    passed = sum(one.passed for one in each)
    solved = sum(any(one.passed for one in found) for found in attempts.values())
    counted = Counter(one.reason for one in each if not one.passed)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counted.most_common(_REASONS))
    share = f"{passed:,} of {len(each):,} answers of {config.ask} passed, to {solved:,} of {len(attempts):,} problems"
    share += f" (others: {reasons})" if reasons else ""
    if examples:
        return f"{share}: {examples:,} {'pairs' if config.give == 'pairs' else 'examples'}"
    if passed:
        raise kdtool.UsageError(
            f"verified: {share}; no problem has an answer that passed and one that failed, which a pair needs: raise "
            "samples or temperature"
        )
    raise kdtool.UsageError(
        f"verified: nothing to learn from: {share}; raise samples or max_tokens, ask a stronger teacher, or, of one that "
        "is tuned to chat, set `form: chat`"
    )
