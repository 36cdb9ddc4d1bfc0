"""Errors explained to the user: the cause, the plugin that failed, a remedy, and the exit code."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from kdtool._cli.interrupts import INTERRUPTED
from kdtool._errors import KdtoolError, cause_of, is_interrupt, is_resumable
from kdtool._plugins.attribution import culprit, describe, place_of, translate_errors
from kdtool._plugins.owner import owner_of
from kdtool._text.terminal import escape

__all__ = ["explain"]


def explain(error: BaseException, *, debug: bool) -> int:
    """Explain on standard error why a command ended, and return the exit code."""
    if owner_of(error) is None:  # a plugin may raise click's exceptions, too
        if is_interrupt(error) or isinstance(error, click.Abort):
            how = f"stopped by {error}" if isinstance(error, KeyboardInterrupt) and str(error) else "interrupted"
            kept = "; finished work is kept, run the same command to continue" if is_resumable(error) else ""
            click.echo(f"\n{how}{kept}", err=True)
            return INTERRUPTED
        if isinstance(error, click.exceptions.Exit):
            return error.exit_code
        if isinstance(error, click.ClickException):
            error.show()
            return error.exit_code
        if isinstance(error, BrokenPipeError):
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # the reader has gone
            return 1
    if debug:
        traceback.print_exception(error)
    try:
        with translate_errors():
            raise error
    except KdtoolError as known:
        click.echo(escape(f"error: {describe(known)}"), err=True)
        return known.exit_code
    except BaseException:
        who, place = culprit(error), place_of(error)
        blame = f"{who or 'kdtool'} failed: {cause_of(error)}{place and f' ({place})'}"
        click.echo(escape(f"error: {blame}"), err=True)
        kept = "Finished work is kept. " if is_resumable(error) else ""
        owner = owner_of(error)
        remedy = "This is a bug in kdtool; report it with the traceback"
        if who:
            local = who.startswith("the local file") or (owner is not None and not owner.distribution)
            remedy = "See the traceback" if local else "The plugin's authors need the traceback"
        click.echo(f"  {kept}{remedy}: run `kdtool --debug …`.", err=True)
        return KdtoolError.exit_code
