"""`kdtool gate`: decides by exit code whether the student of a finished run may ship.

The rules apply to a run's comparisons: opponents to beat, measurements that must not get worse, and scores to reach.
The decision is worded in Markdown, as the comment of a pull request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isinf
from pathlib import Path
from typing import Any, Literal

import click
import kdtool
from kdtool._cli.shared import say_markdown
from kdtool._text.terminal import figure


@click.command("gate")
@click.argument("run")
@click.option(
    "--on", multiple=True, metavar="MEASUREMENT", help="Measurement that decides [default: the first]; repeatable."
)
@click.option(
    "--against",
    multiple=True,
    metavar="ARM",
    help="Arm to beat [default: controls, the reference and the untrained student]; repeatable.",
)
@click.option(
    "--guard",
    "guards",
    multiple=True,
    metavar="MEASUREMENT",
    help="Measurement that must not be worse than before training; repeatable.",
)
@click.option(
    "--comment", type=click.Path(dir_okay=False, path_type=Path), help="Write the Markdown to this file, too."
)
@click.option("--out", type=click.Path(file_okay=False), default="runs", show_default=True, help="Folder for runs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def gate(
    context: click.Context,
    run: str,
    on: tuple[str, ...],
    against: tuple[str, ...],
    guards: tuple[str, ...],
    comment: Path | None,
    out: str,
    as_json: bool,
) -> None:
    """Decide by exit code whether a finished run may ship.

    RUN is the name or the folder of a finished run. The exit code is 0 if the student is better than its controls, the
    reference and itself before its training, and reached all required scores; 6 if a required score was missed, 11 if
    "better" was not shown, 12 if the student is worse, 13 if it is worse in a measurement named by --guard. The decision
    is printed as text in a terminal, elsewhere in Markdown, as the comment of a pull request.

    \b
    Example:  kdtool gate quickstart --guard perplexity
    """  # noqa: D301 - click reads backspaces
    decision = decide(kdtool.load(run, out=out), on, against, guards)
    text = write_comment(decision)
    if comment is not None:
        comment.write_text(text, encoding="utf-8")
    click.echo(json.dumps(_plain(decision), indent=1)) if as_json else say_markdown(text.rstrip())
    context.exit(decision.exit_code)


def _plain(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON; an infinite bound is null."""
    plain = {**asdict(decision), "exit_code": decision.exit_code}
    for comparison in (*plain["compared"], *plain["guards"]):
        comparison.update({key: None for key in ("difference", "low", "high") if isinf(comparison[key])})
    return plain


Outcome = Literal["better", "missed", "not shown", "worse", "forgotten"]
EXIT_CODES: dict[Outcome, int] = {"better": 0, "missed": 6, "not shown": 11, "worse": 12, "forgotten": 13}
"""The exit code of each outcome. 6 is also that of `kdtool run` for a missed score; 11 to 13 are the gate's own."""
_STUDENT = "student"


@dataclass(frozen=True)
class Decision:
    """The outcome of the gate, with its comparisons.

    `verdict` is the run's in a few words, as `kdtool show` prints it. `compared` are the comparisons in the measurements
    that decide, one for each opponent; `guards` those with the student before its training. `missed` are the recipe's
    requirements that were not met, in words.
    """

    run: str
    verdict: str
    outcome: Outcome
    compared: tuple[kdtool.Comparison, ...]
    guards: tuple[kdtool.Comparison, ...]
    missed: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if the student may ship, else the number of the reason."""
        return EXIT_CODES[self.outcome]


def decide(
    results: kdtool.Results, on: Sequence[str] = (), against: Sequence[str] = (), guards: Sequence[str] = ()
) -> Decision:
    """Decide whether the student may ship: better than each opponent, nothing forgotten, all required scores reached.

    A verdict is that of the run: the 95 % interval of the difference, over items and seeds, lies on one side of zero. Of
    several reasons, the outcome is the first of: missed, forgotten, worse, not shown.

    Args:
        results: of a finished run.
        on: the measurements that decide; by default the first one in which the student was compared with its opponents. In
            each of them the student has to be better than each opponent.
        against: the opponents' arms; by default all controls, the reference, and the student before its training, as far as
            they were measured.
        guards: measurements in which the student must not be worse than it was before its training.

    Raises:
        UsageError: a measurement or an arm was not compared with the student, or there is nothing to decide by.
    """
    pairs = {(each.measurement, each.against): each for each in results.comparisons if each.arm == _STUDENT}
    roles = {subject.arm or subject.name: subject.role for subject in results.subjects}
    opponents = against or [
        arm for arm in dict.fromkeys(arm for _, arm in pairs) if roles.get(arm) in ("control", "reference", "base")
    ]
    if not opponents:
        raise kdtool.UsageError(
            f"run {results.name} has no control, reference or student before its training that the student was "
            "compared with: set `control: {match: tokens}` or `base: true` of the student in its recipe, or name an arm by "
            "--against"
        )
    measurements = on or [name for name, arm in pairs if arm == opponents[0]][:1]
    compared = [_find(pairs, name, arm) for name in measurements or [""] for arm in opponents]
    before = [arm for arm, role in roles.items() if role == "base"]
    if guards and not before:
        raise kdtool.UsageError(
            f"--guard compares with the student before its training, which run {results.name} did not measure: "
            "set `base: true` of the student in its recipe"
        )
    guarded = [_find(pairs, name, before[0]) for name in guards]
    missed = tuple(f"{each.measurement} {each.text}" for each in results.requirements if not each.met)
    return Decision(
        results.name, results.outcome, _outcome(compared, guarded, missed), tuple(compared), tuple(guarded), missed
    )


def _find(pairs: dict[tuple[str, str], kdtool.Comparison], measurement: str, arm: str) -> kdtool.Comparison:
    if (measurement, arm) not in pairs:
        known = ", ".join(f"{name} against {other}" for name, other in pairs) or "nothing"
        raise kdtool.UsageError(f"the student was not compared with {arm!r} in {measurement!r}; compared were: {known}")
    return pairs[measurement, arm]


def _outcome(
    compared: Sequence[kdtool.Comparison], guards: Sequence[kdtool.Comparison], missed: Sequence[str]
) -> Outcome:
    verdicts = {each.verdict for each in compared}
    if missed:
        return "missed"
    if any(each.verdict == "worse" for each in guards):
        return "forgotten"
    if "worse" in verdicts:
        return "worse"
    return "better" if verdicts == {"better"} else "not shown"


_HEADLINES: dict[Outcome, str] = {
    "better": "✅ The student may ship",
    "missed": "❌ A required score was not reached",
    "forgotten": "❌ The student is worse than before its training",
    "worse": "❌ The student is worse than what it is compared with",
    "not shown": "❌ Not shown that the student is better",
}


def write_comment(decision: Decision) -> str:
    """Return the decision in Markdown: a headline, a table of the comparisons, and the scores that were missed."""
    return "\n".join(_comment_lines(decision)) + "\n"


def _comment_lines(decision: Decision) -> Iterator[str]:
    yield f"### {_HEADLINES[decision.outcome]}: `{decision.run}`"
    yield ""
    yield f"The run's verdict: {decision.verdict}."
    yield ""
    yield "| measurement | against | student | other | difference, 95 % interval | items | seeds | verdict |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from (_comment_row(each, each.against) for each in decision.compared)
    yield from (_comment_row(each, f"{each.against} (guard)") for each in decision.guards)
    if decision.missed:
        yield ""
        yield from (f"- {each}" for each in decision.missed)


def _comment_row(each: kdtool.Comparison, against: str) -> str:
    unit = "fraction" if each.relative else ""
    difference = figure(each.difference, unit, each.low, each.high, signed=True)
    cells = [each.measurement, against, f"{each.value:.4g}", f"{each.against_value:.4g}", difference]
    return f"| {' | '.join([*cells, str(each.items), str(each.seeds), each.outcome])} |"
