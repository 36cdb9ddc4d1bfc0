"""From an exception to a sentence and an exit code: what failed, whose code it was, and what to do."""

from __future__ import annotations

import traceback

import click

from kdtool._errors import KdtoolError, cause_of
from kdtool._plugins.attribution import culprit, told, translated

__all__ = ["explain"]

_LONGEST = 4000


def explain(error: BaseException) -> int:
    """Print what went wrong to standard error and return the exit code."""
    try:
        with translated():
            raise error
    except KdtoolError as known:
        click.echo(f"error: {_cut(told(known))}", err=True)
        return known.exit_code
    except BaseException:
        return _explain_foreign(error)


def _explain_foreign(error: BaseException) -> int:
    who = culprit(error)
    click.echo(f"error: {who or 'kdtool'} failed: {_cut(cause_of(error))}{_last_place(error)}", err=True)
    remedy = "the plugin's authors need" if who else "you can see where with"
    click.echo(
        f"  What was finished is kept. {remedy.capitalize()} the traceback: start it as `kdtool --debug …`.", err=True
    )
    return KdtoolError.exit_code


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _last_place(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"\n  at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
