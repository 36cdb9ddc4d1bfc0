"""Questions in the terminal: a numbered list with a default, answered by a number or in the user's own words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import kdtool

__all__ = ["Choice", "Questions"]


@dataclass(frozen=True)
class Choice:
    """One answer of a list. `open`: `value` is an example, and choosing it asks for the value."""

    value: str
    text: str
    open: bool = False


class Questions:
    """Asks for missing options; with `take_defaults` every question is answered by its default."""

    def __init__(self, *, take_defaults: bool) -> None:
        self._take_defaults = take_defaults

    def choose(
        self, option: str, title: str, choices: Sequence[Choice], validate: Callable[[str], object], given: str | None
    ) -> str:
        """Return `given`, or the answer to a question; the first choice is the default.

        Args:
            option: the option that answers the question.
            title: the question.
            choices: answers to offer; others are allowed.
            validate: raises UsageError for a wrong answer; the user is then asked again.
            given: the value of the option, if any.

        Raises:
            UsageError: the option's value is wrong; or it is missing, and standard input is not a terminal.
        """
        if given is not None or self._take_defaults:
            answer = choices[0].value if given is None else given
            validate(answer)
            return answer
        self._require_terminal(option)
        click.echo(f"\n{title}")
        for number, choice in enumerate(choices, 1):
            click.echo(f"  {number}  {choice.text}")

        def read(text: str) -> str:
            answer = text.strip()
            if answer.isdecimal() and 1 <= int(answer) <= len(choices):
                chosen = choices[int(answer) - 1]
                answer = str(click.prompt("  Which", default=chosen.value)).strip() if chosen.open else chosen.value
            try:
                validate(answer)
            except kdtool.UsageError as error:
                raise click.BadParameter(str(error)) from error
            return answer

        return str(click.prompt("Number, or another answer", default="1", value_proc=read))

    def fill_in(self, option: str, title: str, default: str, given: str | None) -> str:
        """Return `given`, or a text; Enter takes the default.

        Raises:
            UsageError: the option is missing, and standard input is not a terminal.
        """
        if given is not None or self._take_defaults:
            return default if given is None else given
        self._require_terminal(option)
        return str(click.prompt(title, default=default, show_default=bool(default))).strip()

    def confirm(self, option: str, title: str) -> bool:
        """Return whether the user agrees. `take_defaults` agrees to nothing.

        Raises:
            UsageError: standard input is not a terminal.
        """
        if self._take_defaults:
            return False
        self._require_terminal(option)
        return click.confirm(title, default=False)

    def _require_terminal(self, option: str) -> None:
        if not is_terminal():
            raise kdtool.UsageError(
                f"{option} is missing, and standard input is not a terminal where kdtool init could ask; "
                f"give {option}, or --yes to take all defaults"
            )


def is_terminal() -> bool:
    """Return whether a user can answer on standard input."""
    return sys.stdin.isatty()
