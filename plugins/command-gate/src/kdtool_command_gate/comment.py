"""A decision in Markdown, as the comment of a pull request."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

from kdtool_command_gate.decision import Decision, Outcome

_HEADLINES: dict[Outcome, str] = {
    "better": "✅ The student may ship",
    "missed": "❌ A required score was not reached",
    "forgotten": "❌ The student is worse than before its training",
    "worse": "❌ The student is worse than what it is compared with",
    "not shown": "❌ Not shown that the student is better",
}


def write_comment(decision: Decision) -> str:
    """Return the decision in Markdown: a headline, a table of the comparisons, and the scores that were missed."""
    return "\n".join(_lines(decision)) + "\n"


def _lines(decision: Decision) -> Iterator[str]:
    yield f"### {_HEADLINES[decision.outcome]}: `{decision.run}`"
    yield ""
    yield "| measurement | against | student | other | difference, 95 % interval | items | seeds | verdict |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from (_row(each, each.against) for each in decision.compared)
    yield from (_row(each, f"{each.against} (guard)") for each in decision.guards)
    if decision.missed:
        yield ""
        yield from (f"- {each}" for each in decision.missed)


def _row(each: kdtool.Comparison, against: str) -> str:
    form = "{:+.1%}" if each.relative else "{:+.3g}"
    difference, low, high = (form.format(value) for value in (each.difference, each.low, each.high))
    cells = [
        each.measurement,
        against,
        f"{each.value:.4g}",
        f"{each.against_value:.4g}",
        f"{difference} ({low} to {high})",
    ]
    return f"| {' | '.join([*cells, str(each.items), str(each.seeds), each.verdict])} |"
