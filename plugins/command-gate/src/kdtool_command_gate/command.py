"""The click command `kdtool gate`."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import kdtool

if TYPE_CHECKING:
    from kdtool_command_gate.decision import Decision

__all__ = ["gate"]


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
    is printed in Markdown, as the comment of a pull request.

    \b
    Example:  kdtool gate quickstart --guard perplexity
    """  # noqa: D301 - click reads backspaces
    from kdtool_command_gate.comment import write_comment
    from kdtool_command_gate.decision import decide

    decision = decide(kdtool.load(run, out=out), on, against, guards)
    text = write_comment(decision)
    if comment is not None:
        comment.write_text(text, encoding="utf-8")
    click.echo(json.dumps(_plain(decision), indent=1) if as_json else text, nl=as_json)
    context.exit(decision.exit_code)


def _plain(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON; an infinite bound is null."""
    plain = {**asdict(decision), "exit_code": decision.exit_code}
    for comparison in (*plain["compared"], *plain["guards"]):
        comparison.update({key: None for key in ("difference", "low", "high") if isinf(comparison[key])})
    return plain
