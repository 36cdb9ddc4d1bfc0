"""Progress of a generation, read from its files: rows, requests, dollars, rejections, and requests without an answer.

A request to a paid teacher has no answer if it was sent and perhaps charged, or was under way when its run was killed.
Nothing is locked or changed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kdtool_measuring import Unanswered

if TYPE_CHECKING:
    from kdtool_data.command.lookup import Generated

_SHOWN = 10


def status_lines(generation: Generated, *, cells: bool) -> Iterator[str]:
    """Yield the status, one fact per line; `cells` adds a line for each cell."""
    status, each, total = generation.status, generation.status["cells"], generation.total
    accepted, picodollars, rejected = total("accepted"), total("picodollars"), generation.rejections
    judged = accepted + rejected.total()
    age = max(0.0, time.time() - status["written"])  # a clock may have been set back
    yield f"{status['state']}, {age:,.0f} seconds ago: {generation.folder}"
    yield f"  rows      {accepted:,} of {total('wanted'):,} accepted"
    share = f", {accepted / judged:.0%} of judged ones accepted" if judged else ""
    yield f"  requests  {total('asked'):,}{share}"
    yield f"  tokens    {total('tokens_in'):,} in, {total('tokens_out'):,} out"
    if picodollars:
        a_row = f", ${picodollars / 1e12 / accepted:.4f} per row" if accepted else ""
        yield f"  dollars   {picodollars / 1e12:,.2f}{a_row}"
    full = sum(cell["accepted"] == cell["wanted"] for cell in each)
    closed = [f"{cell['cell']} ({cell['closed']})" for cell in each if cell["closed"]]
    yield f"  cells     {full:,} of {len(each):,} full" + (
        f"; at a limit: {', '.join(closed[:_SHOWN])}" if closed else ""
    )
    for reason, count in rejected.most_common(_SHOWN):
        yield f"  rejected  {count:,} {reason}"
    for cell in each if cells else ():
        yield f"  {cell['cell']:<32} {cell['accepted']:>7,} of {cell['wanted']:<7,} {cell['asked']:>7,} requests"


def rejection_lines(rejected: Sequence[Mapping[str, Any]], generation: Generated, most: int) -> Iterator[str]:
    """Yield the counts of all rejections, and `most` samples of each reason."""
    shown: Counter[str] = Counter()
    for reason, count in generation.rejections.most_common():
        yield f"{count:,} {reason}"
    for candidate in rejected:
        shown[candidate["reason"]] += 1
        if shown[candidate["reason"]] <= most:
            yield ""
            yield f"{candidate['id']}: {candidate['reason']}" + (
                f" ({candidate['error']})" if candidate["error"] else ""
            )
            yield from (f"    {line}" for line in candidate["answer"].splitlines())


_OPEN = "under way, or its run was killed"


def unanswered_records(attempts: Sequence[Unanswered]) -> list[dict[str, Any]]:
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
    yield from unanswered_counts(attempts) if attempts else ["every request that was sent has an answer"]


def unanswered_counts(attempts: Sequence[Unanswered]) -> Iterator[str]:
    """Yield a line with number and reserved dollars of the attempts of each state, if there are any."""
    for state, what in (("unknown", "sent and not answered"), ("open", _OPEN)):
        reserved = [attempt.reserved for attempt in attempts if attempt.state == state]
        if reserved:
            yield f"{len(reserved):,} {what}: at most ${sum(reserved) / 1e12:,.4f}"


def _time(attempt: Unanswered) -> str:
    return datetime.fromtimestamp(attempt.begun, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
