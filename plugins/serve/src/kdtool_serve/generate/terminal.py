"""A session in the terminal: prompts, answers in colour or side by side, and commands that begin with a slash.

Each line of code is coloured once it is complete. Prompts may have several lines, with history and completion.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import IO, TYPE_CHECKING, Any

import kdtool
from kdtool_transformers import FILL_ME
from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.lexers import PygmentsLexer
from pygments import highlight
from pygments.formatters import TerminalFormatter
from pygments.lexers import get_lexer_by_name
from rich.cells import cell_len

from kdtool_serve.generate.answers import STOPPED, Answer, Settings, answer

if TYPE_CHECKING:
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPressEvent
    from prompt_toolkit.output import Output
    from rich.console import Console, RenderableType

COMMANDS: Mapping[str, str] = {
    "/model": "NAME …: let this model answer, or several side by side; without a name, list the models",
    "/set": "KEY=VALUE …: change max_tokens, temperature, top_p, top_k, seed or stop; without a key, show them",
    "/chat": "answer as an assistant who remembers the session, or continue text again",
    "/retry": "answer the last prompt again, with the next seed if answers are sampled",
    "/clear": "forget the chat so far",
    "/help": "show this",
    "/quit": "end; Ctrl-D does, too",
}
_SETTABLE = tuple(field.name for field in fields(Settings) if field.name not in {"chat", "fill", "raw"})


class Session(ExitStack):
    """Answers prompts; a context manager that closes the models.

    Args:
        models: the models; each is opened when it first answers, and stays open.
        chosen: the names of those that answer.
        settings: how to answer at first.
        console: where answers and messages appear.
        language: the code's language, for colours.
    """

    def __init__(
        self, models: kdtool.Models, chosen: list[str], settings: Settings, console: Console, language: str
    ) -> None:
        super().__init__()
        self.models, self.chosen, self.settings = models, chosen, settings
        self._console, self._language = console, language
        self._opened: dict[str, kdtool.Runtime] = {}
        self._turns: tuple[tuple[str, str], ...] = ()
        self._before: tuple[tuple[str, str], ...] = ()
        self._last = ""
        self._commands: dict[str, Callable[[list[str]], object]] = {
            "/model": self._model, "/set": self._set, "/chat": self._chat, "/retry": self._retry,
            "/clear": self._clear, "/help": self._help,
        }  # fmt: skip

    def handle(self, line: str) -> bool:
        """Answer a prompt or obey a command; return False at the end. Errors are shown, and the session continues."""
        word, *rest = line.split() or [""]
        if word in {"/quit", "/exit"}:
            return False
        try:
            if word in self._commands:
                self._commands[word](rest)
            elif word.startswith("/") and "\n" not in line and word[1:].isalpha():
                _say(f"there is no command {word}; /help lists them")
            elif line.strip():
                self.ask(line)
        except KeyboardInterrupt as stop:
            if stop.args:  # a signal to end, and not Ctrl-C
                raise
            _say(STOPPED)
        except Exception as error:  # a model that fails does not end the session
            _say(str(error) or type(error).__name__)
        return True

    def ask(self, prompt: str) -> dict[str, Answer]:
        """Answer a prompt by the chosen models; Ctrl-C keeps what there is of the answer."""
        self._last, self._before = prompt, self._turns
        fill = not self.settings.chat and FILL_ME in prompt
        request = replace(self.settings, fill=fill).request(prompt, self._turns)
        runtimes = {name: self.open(name) for name in self.chosen}
        if len(runtimes) > 1:
            answers = answer_side_by_side(self._console, runtimes, request, self._language, raw=self.settings.raw)
        else:
            answers = {self.chosen[0]: self._stream(runtimes[self.chosen[0]], request)}
        if self.settings.chat:
            first = next(iter(answers.values()))  # of the first chosen model that has not failed
            self._turns = (*request.turns, ("assistant", first.text))
        return answers

    def open(self, name: str) -> kdtool.Runtime:
        """Return a model, opened at the first call."""
        if name not in self._opened:
            with self._console.status(f"opening {name} …"):
                self._opened[name] = self.enter_context(self.models.open(name))
        return self._opened[name]

    def _stream(self, runtime: kdtool.Runtime, request: kdtool.Request) -> Answer:
        before = request.prompt.rpartition("\n")[0] + "\n" if request.prompt else ""
        colours = self._console.is_terminal and not self._console.no_color
        stream = CodeStream(self._console.file, self._language, self._console.width if colours else 0, before)
        answered = Answer()
        try:
            answer(runtime, request, stream.write, into=answered, raw=self.settings.raw)
        except KeyboardInterrupt as stop:
            if stop.args:  # a signal to end, and not Ctrl-C
                raise
            answered.finish = STOPPED
        self._console.file.write("\n")
        _say(f"{answered.figures()}{', stopped' if answered.finish == STOPPED else ''}")
        return answered

    def _model(self, names: list[str]) -> None:
        for name in names:
            self.open(name)
        self.chosen = names or self.chosen
        for name, subject in self.models.subjects.items():
            mark = "*" if name in self.chosen else " "
            state = kdtool.style(f"  {subject.role}{', open' if name in self._opened else ''}", dim=True)
            kdtool.say(kdtool.style(f"{mark} {name}", bold=mark == "*"), state)

    def _set(self, pairs: list[str]) -> None:
        for pair in pairs:
            key, sign, value = pair.partition("=")
            if not sign or key not in _SETTABLE:
                raise kdtool.UsageError(
                    f"{pair!r} is not a setting: write KEY=VALUE with one of {', '.join(_SETTABLE)}"
                )
            self.settings = replace(self.settings, **{key: _read_setting(key, value, getattr(self.settings, key))})
        _say(", ".join(f"{key}={getattr(self.settings, key)}" for key in _SETTABLE))

    def _chat(self, _: list[str]) -> None:
        self.settings = replace(self.settings, chat=not self.settings.chat)
        self._turns = self._before = ()
        _say("answers as an assistant" if self.settings.chat else "continues text")

    def _retry(self, _: list[str]) -> None:
        if not self._last:
            raise kdtool.UsageError("there is no prompt to retry yet")
        if self.settings.temperature:
            self.settings = replace(self.settings, seed=self.settings.seed + 1)
        self._turns = self._before
        self.ask(self._last)

    def _clear(self, _: list[str]) -> None:
        self._turns = self._before = ()
        _say("the chat is forgotten")

    def _help(self, _: list[str]) -> None:
        for name, meaning in COMMANDS.items():
            kdtool.say(f"{name:8}{meaning}")
        _say(
            f"Enter sends the prompt, Alt-Enter starts a new line, Ctrl-C stops an answer; {FILL_ME} stands for"
            " code to fill in"
        )


def _say(text: str) -> None:
    kdtool.say(kdtool.style(text, dim=True))


def _read_setting(key: str, value: str, now: Any) -> Any:
    """Return a setting's value; a backslash and n in a stop text are a line break.

    Raises:
        UsageError: it is not of the setting's kind, or out of its range.
    """
    if key == "stop":
        return tuple(part.replace("\\n", "\n") for part in value.split(",") if part)
    try:
        number = type(now)(value)
    except ValueError:
        raise kdtool.UsageError(f"{key} must be a number, not {value!r}") from None
    least, most = {"max_tokens": (1, 2**31), "top_p": (0, 1)}.get(key, (0, 2**63 - 1))
    if not least <= number <= most:
        raise kdtool.UsageError(f"{key} must be from {least} to {most:,}, not {value}")
    return number


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Return a model's text without control characters, which could change the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class CodeStream:
    """Writes code to a terminal: the line in progress plain, complete lines in colour.

    Args:
        out: the terminal.
        language: name of a pygments lexer.
        width: columns of the terminal; a longer line stays plain, and with 0 every line.
        before: code in front, such as the prompt, which is not shown; it decides what an open string or bracket is.
    """

    def __init__(self, out: IO[str], language: str, width: int, before: str = "") -> None:
        self._out, self._width = out, width
        self._lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
        self._formatter = TerminalFormatter(bg="dark")  # the terminal's own colours
        self._whole = visible(before)
        self._column = 0  # cells of the line in progress that this stream wrote

    def write(self, text: str) -> None:
        """Show the next text."""
        first, *others = visible(text).split("\n")
        self._add(first)
        for line in others:
            self._end_line()
            self._add(line)
        self._out.flush()

    def _add(self, text: str) -> None:
        self._whole += text
        self._out.write(text)
        self._column += cell_len(text)

    def _end_line(self) -> None:
        """Write the line in progress again in colour, if it begins at the terminal's edge and did not wrap; end it."""
        lines = self._whole.split("\n")
        if self._column == cell_len(lines[-1]) and cell_len(lines[-1].expandtabs()) < self._width:
            coloured = highlight(self._whole, self._lexer, self._formatter)
            self._out.write("\r" + coloured.split("\n")[len(lines) - 1])
        self._whole += "\n"
        self._out.write("\n")
        self._column = 0


_FRAMES_PER_SECOND = 8


class _Column:
    """One model's answer, made in a separate thread."""

    def __init__(
        self, name: str, runtime: kdtool.Runtime, request: kdtool.Request, stop: threading.Event, *, raw: bool
    ) -> None:
        self.name = name
        self.answer = Answer()
        self.problem = ""
        self._raw = raw
        self.thread = threading.Thread(target=self._work, args=(runtime, request, stop), daemon=True)

    def _work(self, runtime: kdtool.Runtime, request: kdtool.Request, stop: threading.Event) -> None:
        try:
            answer(runtime, request, lambda _: None, stop.is_set, self.answer, raw=self._raw)
        except Exception as error:
            self.problem = str(error) or type(error).__name__

    def render(self, language: str) -> RenderableType:
        from rich.panel import Panel
        from rich.syntax import Syntax
        from rich.text import Text

        code = Syntax(visible(self.answer.text), language, theme="ansi_dark", word_wrap=True)
        shown = Text(self.problem) if self.problem else code
        return Panel(shown, title=Text(self.name), subtitle=self.answer.figures(), title_align="left")


def answer_side_by_side(
    console: Console, runtimes: Mapping[str, kdtool.Runtime], request: kdtool.Request, language: str, *, raw: bool
) -> dict[str, Answer]:
    """Show the answers of all models while they are generated, and return them; Ctrl-C stops all of them.

    A model that fails shows its message, and has no answer; the others continue.

    Raises:
        UsageError: all of them failed.
    """
    from rich.live import Live

    stop = threading.Event()
    columns = [_Column(name, runtime, request, stop, raw=raw) for name, runtime in runtimes.items()]
    for column in columns:
        column.thread.start()
    with Live(console=console, refresh_per_second=_FRAMES_PER_SECOND, transient=True) as live:
        try:
            while any(column.thread.is_alive() for column in columns):
                live.update(_grid(columns, language))
                columns[0].thread.join(1 / _FRAMES_PER_SECOND)
                for column in columns[1:]:
                    column.thread.join(0.01)
        except KeyboardInterrupt as interrupt:
            stop.set()
            for column in columns:
                column.thread.join()
            if interrupt.args:  # a signal to end, and not Ctrl-C
                raise
    console.print(_grid(columns, language))
    answers = {column.name: column.answer for column in columns if not column.problem}
    if not answers:
        raise kdtool.UsageError("no model answered; the reasons stand above")
    return answers


def _grid(columns: list[_Column], language: str) -> RenderableType:
    from rich.table import Table

    grid = Table.grid(expand=True)
    for _ in columns:
        grid.add_column(ratio=1)
    grid.add_row(*(column.render(language) for column in columns))
    return grid


def converse(session: Session, language: str, given: Input | None = None, shown: Output | None = None) -> None:
    """Answer what the user types until Ctrl-D or /quit. `given` and `shown` stand for the terminal in tests."""
    typed: PromptSession[str] = PromptSession(
        history=_history(),
        completer=WordCompleter([*COMMANDS, *session.models.subjects], WORD=True),
        complete_while_typing=False,
        multiline=True,
        key_bindings=_key_bindings(),
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


def _key_bindings() -> KeyBindings:
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
