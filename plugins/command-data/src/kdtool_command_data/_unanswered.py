"""Requests to a paid teacher without an answer: sent and perhaps charged, or under way when their run was killed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdtool_asking import Unanswered, read_summary

__all__ = ["count_lines", "records_of", "unanswered_in", "unanswered_lines"]

_OPEN = "under way, or its run was killed"


def unanswered_in(ledger: Path) -> tuple[Unanswered, ...]:
    """Return the attempts in a ledger that have no answer, also while a run writes it; none if there is no file.

    Raises:
        StorageError: it cannot be read.
        UsageError: another version of kdtool wrote it.
    """
    return read_summary(ledger).unanswered if ledger.exists() else ()


def records_of(attempts: Sequence[Unanswered]) -> list[dict[str, Any]]:
    """Return the attempts as plain data, with the time in UTC."""
    records = [asdict(attempt) for attempt in attempts]
    return [
        {**record.pop("about"), **record, "begun": _time(attempt)}
        for record, attempt in zip(records, attempts, strict=True)
    ]


def unanswered_lines(attempts: Sequence[Unanswered]) -> Iterator[str]:
    """Yield a line for each attempt, with the reserved dollars, and one for all of each state."""
    for attempt in attempts:
        about, reason = attempt.about, attempt.reason or _OPEN
        yield f"{_time(attempt)}  {about.model}  {about.purpose}  {about.request}  ${attempt.reserved / 1e12:.6f}  {reason}"
    yield from count_lines(attempts) if attempts else ["every request that was sent has an answer"]


def count_lines(attempts: Sequence[Unanswered]) -> Iterator[str]:
    """Yield a line with number and reserved dollars of the attempts of each state, if there are any."""
    for state, what in (("unknown", "sent and not answered"), ("open", _OPEN)):
        reserved = [attempt.reserved for attempt in attempts if attempt.state == state]
        if reserved:
            yield f"{len(reserved):,} {what}: at most ${sum(reserved) / 1e12:,.4f}"


def _time(attempt: Unanswered) -> str:
    return datetime.fromtimestamp(attempt.begun, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
