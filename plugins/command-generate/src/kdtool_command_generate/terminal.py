"""Reads prompts of several lines from the terminal, with history and completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers import get_lexer_by_name

from kdtool_command_generate.session import COMMANDS, Session

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPressEvent
    from prompt_toolkit.output import Output

__all__ = ["converse"]


def converse(session: Session, language: str, given: Input | None = None, shown: Output | None = None) -> None:
    """Answer what the user types until Ctrl-D or /quit. `given` and `shown` stand for the terminal in tests."""
    typed: PromptSession[str] = PromptSession(
        history=_history(),
        completer=WordCompleter([*COMMANDS, *session.models.subjects], WORD=True),
        complete_while_typing=False,
        multiline=True,
        key_bindings=_keys(),
        lexer=PygmentsLexer(type(get_lexer_by_name(language))),
        prompt_continuation="... ",
        input=given,
        output=shown,
    )
    while True:
        try:
            line = typed.prompt(f"{' | '.join(session.chosen)}> ")
        except KeyboardInterrupt as stop:
            if stop.args:  # a signal to end; Ctrl-C clears what was typed
                raise
            continue
        except EOFError:
            return
        if not session.handle(line):
            return


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """Return earlier prompts, in a file that only the user may read; in memory if none can be written."""
    try:
        file = user_state_path("kdtool", ensure_exists=True) / "generate-history"
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(file)
