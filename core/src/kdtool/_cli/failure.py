"""From an exception to a sentence and an exit code: what failed, whose code it was, and what to do."""

from __future__ import annotations

import traceback

import click

from kdtool._contract.hooks import owner_of
from kdtool._errors import KdtoolError, MemoryExceededError

__all__ = ["explain"]


def explain(error: Exception) -> int:
    """Print what went wrong to standard error and return the exit code."""
    owner = owner_of(error)
    if isinstance(error, KdtoolError):
        blamed = f"\n  in {owner}" if owner and str(owner) not in str(error) else ""
        click.echo(f"error: {error}{blamed}", err=True)
        return error.exit_code
    place = _last_place(error)
    who = f"{owner} failed" if owner else "kdtool failed"
    click.echo(f"error: {who}: {type(error).__name__}: {error}{place}", err=True)
    if isinstance(error, MemoryError):
        return MemoryExceededError.exit_code
    remedy = "the plugin's authors need" if owner and owner.distribution else "you can see where with"
    click.echo(f"  What was finished is kept. {remedy.capitalize()} the traceback: add --debug.", err=True)
    return KdtoolError.exit_code


def _last_place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"\n  at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
