"""What came of all attempts, in a line for the user; or why nothing can be learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import kdtool
from kdtool_measuring import mending

from kdtool_corpus_verified._attempts import REFUSED, Attempt

if TYPE_CHECKING:
    from kdtool_corpus_verified._config import VerifiedConfig

__all__ = ["told", "told_of_solutions"]

_REASONS = 4
"""So many are told, the commonest first."""


def told(config: VerifiedConfig, attempts: Mapping[str, Sequence[Attempt]], examples: int) -> str:
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
    reasons = _reasons(each)
    share = f"{passed:,} of {len(each):,} answers of {config.ask} passed, to {solved:,} of {len(attempts):,} problems"
    share += f" (others: {reasons})" if reasons else ""
    if examples:
        return f"{share}: {examples:,} {'pairs' if config.give == 'pairs' else 'examples'}"
    if passed:
        raise kdtool.UsageError(
            f"verified: {share}; no problem has an answer that passed and one that failed, which a pair needs: raise "
            "samples or temperature"
        )
    raise kdtool.UsageError(f"verified: nothing to learn from: {share}; {_remedy(each)}")


def _remedy(attempts: Sequence[Attempt]) -> str:
    """Say what to do where nothing passed, by what was commonest."""
    (commonest, _), *_ = Counter(one.reason for one in attempts).most_common(1)
    if commonest == REFUSED:
        refusal = next((one.refusal for one in attempts if one.refusal), "")
        return (f"the first was refused with: {refusal}; " if refusal else "") + mending(refusal)
    return "raise samples or max_tokens, ask a stronger teacher, or, of one that is tuned to chat, set `form: chat`"


def told_of_solutions(config: VerifiedConfig, solutions: Mapping[str, Attempt]) -> str:
    """Return how many problems are left out because their own solutions do not pass; "" where there is none.

    Raises:
        UsageError: all are.
    """
    failed = [one for one in solutions.values() if not one.passed]
    if len(failed) == len(solutions):
        raise kdtool.UsageError(
            f"verified.corpus: the problems' own solutions pass none of the tests of {config.corpus} here "
            f"({_reasons(failed)}), so no answer could: expected are tests that need Python alone; or raise seconds"
        )
    share = f"{len(failed):,} of {len(solutions):,} problems are left out, whose own solutions fail here"
    return f"{share} ({_reasons(failed)})" if failed else ""


def _reasons(attempts: Sequence[Attempt]) -> str:
    counted = Counter(one.reason for one in attempts if not one.passed)
    return ", ".join(f"{count:,} {reason}" for reason, count in counted.most_common(_REASONS))
