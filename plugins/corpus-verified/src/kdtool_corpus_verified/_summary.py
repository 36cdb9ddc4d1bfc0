"""Summarise the attempts in a line for the user, or explain why none is usable for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import kdtool
from kdtool_asking import refusal_remedy

from kdtool_corpus_verified._attempts import REFUSED, Attempt

if TYPE_CHECKING:
    from kdtool_corpus_verified._config import VerifiedConfig

__all__ = ["summarise_attempts", "summarise_solutions"]

_REASONS = 4
"""Number of reasons listed, the commonest first."""


def summarise_attempts(config: VerifiedConfig, attempts: Mapping[str, Sequence[Attempt]], examples: int) -> str:
    """Return how many answers passed, and why the others did not.

    Args:
        config: settings of the corpus.
        attempts: by problem.
        examples: number of examples made of them.

    Raises:
        UsageError: `examples` is 0.
    """
    each = [one for found in attempts.values() for one in found]
    passed = sum(one.has_passed for one in each)
    solved = sum(any(one.has_passed for one in found) for found in attempts.values())
    reasons = _reasons(each)
    share = f"{passed:,} of {len(each):,} answers of {config.ask} passed, to {solved:,} of {len(attempts):,} problems"
    share += f" (others: {reasons})" if reasons else ""
    if examples:
        return f"{share}: {examples:,} {'pairs' if config.give == 'pairs' else 'examples'}"
    if passed:
        raise kdtool.UsageError(
            f"verified.give: {share}; no problem has an answer that passed and one that failed, which a pair needs; raise "
            "samples or temperature"
        )
    raise kdtool.UsageError(f"verified: nothing to learn from: {share}; {_remedy(each)}")


def _remedy(attempts: Sequence[Attempt]) -> str:
    """Return what to do when no answer passed, depending on the commonest reason."""
    (commonest, _), *_ = Counter(one.reason for one in attempts).most_common(1)
    if commonest == REFUSED:
        refusal = next((one.refusal for one in attempts if one.refusal), "")
        return (f"the first was refused with: {refusal}; " if refusal else "") + refusal_remedy(refusal)
    return "raise samples or max_tokens, ask a stronger teacher, or set `form: chat` for a chat model"


def summarise_solutions(config: VerifiedConfig, solutions: Mapping[str, Attempt]) -> str:
    """Return how many problems are dropped because their reference solutions fail; "" for none.

    Raises:
        UsageError: all of them fail.
    """
    failed = [one for one in solutions.values() if not one.has_passed]
    if len(failed) == len(solutions):
        raise kdtool.UsageError(
            f"verified.corpus: the reference solutions pass none of the tests of {config.corpus} here "
            f"({_reasons(failed)}); expected are tests that need Python alone; name another corpus, or raise seconds"
        )
    share = f"{len(failed):,} of {len(solutions):,} problems are dropped: their reference solutions fail here"
    return f"{share} ({_reasons(failed)})" if failed else ""


def _reasons(attempts: Sequence[Attempt]) -> str:
    counted = Counter(one.reason for one in attempts if not one.has_passed)
    return ", ".join(f"{count:,} {reason}" for reason, count in counted.most_common(_REASONS))
