"""From an exception to a sentence and an exit code: what failed, whose code it was, and what to do."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from kdtool._cli.leaving import INTERRUPTED, Stopped
from kdtool._errors import KdtoolError, cause_of
from kdtool._plugins.attribution import culprit, describe, translate_errors
from kdtool._plugins.owner import owner_of

__all__ = ["explain"]


def explain(error: BaseException, *, debug: bool) -> int:
    """Print what ended a command to standard error and return the exit code."""
    if owner_of(error) is None:  # a plugin may raise click's exceptions, too
        if isinstance(error, KeyboardInterrupt | click.Abort):
            return _explain_interruption(error)
        if isinstance(error, click.exceptions.Exit):
            return error.exit_code
        if isinstance(error, click.ClickException):
            error.show()
            return error.exit_code
        if isinstance(error, BrokenPipeError):
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # nobody reads it
            return 1
    if debug:
        traceback.print_exception(error)
    try:
        with translate_errors():
            raise error
    except KdtoolError as known:
        click.echo(f"error: {describe(known)}", err=True)
        return known.exit_code
    except BaseException:
        return _explain_foreign(error)


def _explain_interruption(error: BaseException) -> int:
    stopped = next((one for one in (error, error.__cause__) if isinstance(one, Stopped)), None)
    how = f"stopped by {stopped}" if stopped else "interrupted"
    click.echo(f"\n{how}; what is finished is kept, and the same command goes on from there", err=True)
    return INTERRUPTED


def _explain_foreign(error: BaseException) -> int:
    who = culprit(error)
    click.echo(f"error: {who or 'kdtool'} failed: {cause_of(error)}", err=True)
    remedy = "The plugin's authors need" if who else "You can see where with"
    click.echo(f"  What was finished is kept. {remedy} the traceback: start it as `kdtool --debug …`.", err=True)
    return KdtoolError.exit_code
