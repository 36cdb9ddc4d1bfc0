"""Attempts with an unknown outcome: requests to a paid teacher that were sent, and perhaps charged, but have no answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdtool_ledger import Unknown, read_summary

__all__ = ["count_of", "records_of", "unknown_in", "unknown_lines"]


def unknown_in(ledger: Path) -> tuple[Unknown, ...]:
    """Return the attempts in a ledger that have no answer, also while a run writes it; none where there is no file.

    Raises:
        StorageError: it cannot be read.
        UsageError: another version wrote it.
    """
    return read_summary(ledger).unknown if ledger.exists() else ()


def records_of(attempts: Sequence[Unknown]) -> list[dict[str, Any]]:
    """Return the attempts as plain data, with the time in UTC."""
    records = [asdict(one) for one in attempts]
    return [{**one.pop("about"), **one, "begun": _time(found)} for one, found in zip(records, attempts, strict=True)]


def count_of(attempts: Sequence[Unknown]) -> Iterator[str]:
    """Yield a line with the number of attempts, if there are any."""
    if attempts:
        yield f"  unknown   {_sum(attempts)}; see each with --unknown"


def unknown_lines(attempts: Sequence[Unknown]) -> Iterator[str]:
    """Yield a line for each attempt and one for all, with the reserved dollars: the most that may have been charged."""
    for one in attempts:
        about = one.about
        yield f"{_time(one)}  {about.model}  {about.purpose}  {about.request}  ${one.reserved / 1e12:.6f}  {one.reason}"
    yield _sum(attempts)


def _sum(attempts: Sequence[Unknown]) -> str:
    dollars = sum(one.reserved for one in attempts) / 1e12
    return f"{len(attempts):,} requests were sent and have no answer; at most ${dollars:,.4f} were charged for them"


def _time(one: Unknown) -> str:
    return datetime.fromtimestamp(one.begun, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
