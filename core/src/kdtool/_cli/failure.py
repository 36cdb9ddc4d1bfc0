"""The end of a command: errors explained to the user, signals that stop the process, and exit codes.

An explained error has the cause, the plugin that failed, and a remedy. Signals are Ctrl-C, and those that clusters send.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from kdtool._errors import KdtoolError, Problem, RecipeError, cause_of, is_interrupt, is_resumable, list_problems
from kdtool._text.terminal import say, style


def explain(error: BaseException, *, debug: bool) -> int:
    """Explain on standard error why a command ended, and return the exit code."""
    # Imported late: commands say what they do before pydantic is imported.
    from kdtool._plugins.hooks import describe, owner_of, place_of, translate_errors

    if owner_of(error) is None:  # a plugin may raise click's exceptions, too
        if is_interrupt(error) or isinstance(error, click.Abort):
            how = f"stopped by {error}" if isinstance(error, KeyboardInterrupt) and str(error) else "interrupted"
            how = " ".join((how, *getattr(error, "__notes__", ())))
            kept = "; finished work is kept, run the same command to continue" if is_resumable(error) else ""
            say(f"\n{how}{kept}", err=True)
            return INTERRUPTED
        if isinstance(error, click.exceptions.Exit):
            return error.exit_code
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            click.echo(error.format_message())
            return 0
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
            text = "\n".join([text, *getattr(known, "__notes__", ())])
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
        say(f"  {kept}{remedy}: run `kdtool --debug …`.", err=True)
        return KdtoolError.exit_code


def _say(text: str) -> None:
    say(style("error", fg="red", bold=True), f": {text}", err=True)


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
INTERRUPTED = 130
"""The exit code of a process that was stopped."""
_PATIENCE = 10.0
"""Seconds after its end in which a command waits for what plugins left running."""
_SOON = 0.1
_STOPS = ("SIGTERM", "SIGBREAK")


def interrupt_on_stop_signals() -> None:
    """Have stop signals raise KeyboardInterrupt with their name, as Ctrl-C does without; an ignored one stays ignored.

    Python drops what is raised while an object is destroyed: a signal that came then is delivered again. The interpreter
    resets handlers while it ends. Signals are ignored from then on, and do not change the exit code.
    """
    before = sys.unraisablehook

    def interrupt(number: int, _: Any) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    def deliver_again(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            before(dropped)
            return
        number = getattr(signal, str(dropped.exc_value), signal.SIGINT)
        again = threading.Timer(
            _SOON, _thread.interrupt_main, [number]
        )  # not now: this, too, runs while it is destroyed
        again.daemon = True
        again.start()

    sys.unraisablehook = deliver_again
    _handle(_STOPS, interrupt)
    atexit.register(_handle, ("SIGINT", *_STOPS), signal.SIG_IGN)


def exit_with(code: int) -> NoReturn:
    """End the process. A signal no longer interrupts: it ends the process at once, with the same code.

    So does the end of `_PATIENCE`: threads of plugins, and functions registered with atexit, may run until then.
    """
    _handle(("SIGINT", *_STOPS), lambda *_: os._exit(code))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    late = threading.Timer(_PATIENCE, _leave, [code])
    late.daemon = True
    late.start()
    gc.freeze()  # else the interpreter looks for garbage among torch's objects at its end: 1.1 s
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    running = {thread for thread in threading.enumerate() if not thread.daemon} - {threading.main_thread()}
    names = ", ".join(sorted(thread.name for thread in running)) or "functions registered with atexit"
    say(f"note: plugins still ran {_PATIENCE:.0f} s after the end, and were stopped: {names}", err=True)
    os._exit(code)


def _handle(names: tuple[str, ...], handler: Callable[[int, Any], object] | signal.Handlers) -> None:
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) not in {signal.SIG_IGN, None}:
            signal.signal(number, handler)
