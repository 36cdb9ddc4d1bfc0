"""Errors explained to the user: the cause, the plugin that failed, a remedy, and the exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path

import click

from kdtool._cli.interrupts import INTERRUPTED
from kdtool._errors import KdtoolError, Problem, RecipeError, cause_of, is_interrupt, is_resumable, list_problems
from kdtool._plugins.attribution import describe, place_of, translate_errors
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
            context = getattr(error, "ctx", None)
            usage = f"\n  {context.get_usage()}\n  Help: {context.command_path} --help" if context else ""
            _say(f"{error.format_message()}{usage}")
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
        text = describe(known)
        if isinstance(known, RecipeError):
            text = text.replace(str(known), list_problems(known.problems, _with_excerpt))
        _say(text)
        return known.exit_code
    except BaseException:
        owner, location = owner_of(error), place_of(error)
        _say(f"{owner or 'kdtool'} failed: {cause_of(error)}{location and f' ({location})'}")
        kept = "Finished work is kept. " if is_resumable(error) else ""
        remedy = "This is a bug in kdtool; report it with the traceback"
        if owner or location:
            local = owner is not None and not owner.distribution
            remedy = "See the traceback" if local else "The plugin's authors need the traceback"
        click.echo(f"  {kept}{remedy}: run `kdtool --debug …`.", err=True)
        return KdtoolError.exit_code


def _say(text: str) -> None:
    colour = False if os.environ.get("NO_COLOR") else None
    click.echo(f"{click.style('error', fg='red', bold=True)}: {escape(text)}", err=True, color=colour)


def _with_excerpt(problem: Problem) -> str:
    """Return a problem with its line of the recipe, and a caret below the key."""
    from kdtool._recipe.yaml import read_text

    first, *remedy = str(problem).split("\n")
    line = ""
    if problem.line:
        with contextlib.suppress(OSError, ValueError, IndexError):
            line = read_text(Path(problem.file)).splitlines()[problem.line - 1]
    if not line or len(line) > _WIDEST:
        return str(problem)
    number, start, key = str(problem.line), problem.column - 1, problem.key.rpartition(".")[2]
    marks = " " * start + "^" * (len(key) if key and line.startswith(key, start) else 1)
    return "\n".join([first, f"    {number} | {line}", f"    {' ' * len(number)} | {marks}", *remedy])


_WIDEST = 120
"""Longest line of a recipe that an error shows."""
