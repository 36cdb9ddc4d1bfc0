"""A session in the terminal: prompts, the models that answer them, and commands that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_transformers import FILL_ME

from kdtool_command_generate.answers import STOPPED, Answer, Settings, answer
from kdtool_command_generate.columns import answer_side_by_side
from kdtool_command_generate.highlighting import CodeStream

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["COMMANDS", "Session"]

COMMANDS: Mapping[str, str] = {
    "/model": "NAME …: let this model answer, or several side by side; without a name, list the models",
    "/set": "KEY=VALUE …: change max_tokens, temperature, top_p, top_k, seed or stop; without a key, show them",
    "/chat": "answer as an assistant who remembers the session, or continue text again",
    "/retry": "answer the last prompt again, with the next seed if answers are sampled",
    "/clear": "forget the chat so far",
    "/help": "show this",
    "/quit": "end; Ctrl-D does, too",
}
_KEYS = tuple(field.name for field in fields(Settings) if field.name not in {"chat", "fill", "raw"})


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
                self._say(f"there is no command {word}; /help lists them")
            elif line.strip():
                self.ask(line)
        except KeyboardInterrupt as stop:
            if stop.args:  # a signal to end, and not Ctrl-C
                raise
            self._say(STOPPED)
        except Exception as error:  # a model that fails does not end the session
            self._say(str(error) or type(error).__name__)
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
            if name not in self.models.subjects:
                self.models.open(name)  # says which there are
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
        self._say(f"{answered.figures()}{', stopped' if answered.finish == STOPPED else ''}")
        return answered

    def _model(self, names: list[str]) -> None:
        for name in names:
            self.open(name)
        self.chosen = names or self.chosen
        for name, subject in self.models.subjects.items():
            mark = "*" if name in self.chosen else " "
            self._console.print(f"{mark} {name}", style="bold" if mark == "*" else "", markup=False, end="")
            self._say(f"  {subject.role}{', open' if name in self._opened else ''}")

    def _set(self, pairs: list[str]) -> None:
        for pair in pairs:
            key, sign, value = pair.partition("=")
            if not sign or key not in _KEYS:
                raise kdtool.UsageError(f"{pair!r} is not a setting: write KEY=VALUE with one of {', '.join(_KEYS)}")
            self.settings = replace(self.settings, **{key: _read(key, value, getattr(self.settings, key))})
        self._say(", ".join(f"{key}={getattr(self.settings, key)}" for key in _KEYS))

    def _chat(self, _: list[str]) -> None:
        self.settings = replace(self.settings, chat=not self.settings.chat)
        self._turns = self._before = ()
        self._say("answers as an assistant" if self.settings.chat else "continues text")

    def _retry(self, _: list[str]) -> None:
        if not self._last:
            raise kdtool.UsageError("there is no prompt to retry yet")
        if self.settings.temperature:
            self.settings = replace(self.settings, seed=self.settings.seed + 1)
        self._turns = self._before
        self.ask(self._last)

    def _clear(self, _: list[str]) -> None:
        self._turns = self._before = ()
        self._say("the chat is forgotten")

    def _help(self, _: list[str]) -> None:
        for name, meaning in COMMANDS.items():
            self._console.print(f"{name:8}{meaning}", markup=False, highlight=False)
        self._say(
            f"Enter sends the prompt, Alt-Enter starts a new line, Ctrl-C stops an answer; {FILL_ME} stands for"
            " code to fill in"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)


def _read(key: str, value: str, now: Any) -> Any:
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
