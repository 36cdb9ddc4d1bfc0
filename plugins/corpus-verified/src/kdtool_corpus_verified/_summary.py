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
"""Number of reasons listed, the most frequent first."""


def summarise_attempts(config: VerifiedConfig, attempts: Mapping[str, Sequence[Attempt]], examples: int) -> str:
    """Return how many answers passed, and why the others did not.

    Args:
        config: settings of the corpus.
        attempts: by problem.
        examples: number of examples made from them.

    Raises:
        UsageError: `examples` is 0.
    """
    every = [attempt for tried in attempts.values() for attempt in tried]
    passed = sum(attempt.has_passed for attempt in every)
    solved = sum(any(attempt.has_passed for attempt in tried) for tried in attempts.values())
    reasons = _reasons(every)
    share = f"{passed:,} of {len(every):,} answers of {config.ask} passed, to {solved:,} of {len(attempts):,} problems"
    share += f" (others: {reasons})" if reasons else ""
    if examples:
        return f"{share}: {examples:,} {'pairs' if config.give == 'pairs' else 'examples'}"
    if passed:
        raise kdtool.UsageError(
            f"verified.give: {share}; no problem has an answer that passed and one that failed, which a pair needs; raise "
            "samples or temperature"
        )
    raise kdtool.UsageError(f"verified: nothing to learn from: {share}; {_remedy(every)}")


def _remedy(attempts: Sequence[Attempt]) -> str:
    """Return what to do when no answer passed, depending on the most frequent reason."""
    (commonest, _), *_ = Counter(attempt.reason for attempt in attempts).most_common(1)
    if commonest == REFUSED:
        refusal = next((attempt.refusal for attempt in attempts if attempt.refusal), "")
        return (f"the first was refused with: {refusal}; " if refusal else "") + refusal_remedy(refusal)
    return "raise samples or max_tokens, ask a stronger teacher, or set `form: chat` for a chat model"


def summarise_solutions(config: VerifiedConfig, solutions: Mapping[str, Attempt]) -> str:
    """Return how many problems are dropped because their reference solutions fail; "" for none.

    Raises:
        UsageError: all of them fail.
    """
    failed = [solution for solution in solutions.values() if not solution.has_passed]
    if len(failed) == len(solutions):
        raise kdtool.UsageError(
            f"verified.corpus: the reference solutions pass none of the tests of {config.corpus} here "
            f"({_reasons(failed)}); expected tests that need only Python; name another corpus, or raise seconds"
        )
    share = f"{len(failed):,} of {len(solutions):,} problems are dropped: their reference solutions fail here"
    return f"{share} ({_reasons(failed)})" if failed else ""


def _reasons(attempts: Sequence[Attempt]) -> str:
    counted = Counter(attempt.reason for attempt in attempts if not attempt.has_passed)
    return ", ".join(f"{count:,} {reason}" for reason, count in counted.most_common(_REASONS))
