"""The click command `kdtool generate`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import kdtool

if TYPE_CHECKING:
    from kdtool_serve.generate.answers import Settings


@click.command("generate")
@click.argument("model", metavar="RUN_OR_FILE")
@click.argument("prompt", required=False)
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help="Read the prompt; - is stdin."
)
@click.option(
    "--model", "names", multiple=True, metavar="NAME", help="Model of the run that answers [default: student]."
)
@click.option(
    "--draft", metavar="NAME", help="Model of the run that drafts tokens, which the one that answers verifies."
)
@click.option("-i", "--interactive", is_flag=True, help="Ask for prompts until Ctrl-D; without a prompt, the default.")
@click.option("--fim", "fill", is_flag=True, help="Fill in the code that is missing at <FILL_ME> in the prompt.")
@click.option("--chat", is_flag=True, help="Answer as an assistant, by the model's chat template.")
@click.option(
    "--max-tokens", default=256, show_default=True, type=click.IntRange(1), help="Tokens to generate at most."
)
@click.option(
    "--temperature", default=0.0, show_default=True, type=click.FloatRange(0), help="0 takes likeliest tokens."
)
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="Sample the likeliest part.")
@click.option("--top-k", default=0, show_default=True, type=click.IntRange(0), help="Sample the K likeliest; 0: all.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="Seed of sampling.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
@click.option("--raw", is_flag=True, help="Do not stop where the text repeats itself or the prompt's function ends.")
@click.option("--language", default="python", show_default=True, help="Language of the code, for colours.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each model.")
@click.option("--offline", is_flag=True, help="Use no network to open models.")
@click.option("--out", type=click.Path(file_okay=False), default="runs", show_default=True, help="Folder for runs.")
def generate(
    model: str,
    prompt: str | None,
    file: str | None,
    names: tuple[str, ...],
    draft: str | None,
    interactive: bool,
    language: str,
    as_json: bool,
    offline: bool,
    out: str,
    **answering: Any,
) -> None:
    """Continue a prompt with a student or another model.

    RUN_OR_FILE is a finished run, whose student continues, a model's folder or file, or OWNER/NAME on the Hub. Without a
    prompt, a session begins in the terminal, in which /help lists the commands; without a terminal, the prompt is read from
    standard input. An answer stops where the text repeats itself, and at the end of the Python function or class that the
    prompt begins; the reason is printed. --raw continues to --max-tokens.

    \b
    Example:  kdtool generate quickstart "def mean(numbers):"
    """  # noqa: D301 - click reads backspaces
    _check_language(language)
    text = _prompt(prompt, file, interactive=interactive)
    _refuse_misuse(text, as_json=as_json, interactive=interactive)
    with ExitStack() as stack:
        with kdtool.waiting(f"opening {model} …"):
            opened = stack.enter_context(kdtool.open_models(model, out=out, offline=offline))
            from kdtool_serve.generate.answers import Settings

        settings = Settings(**answering)
        if text is not None:
            settings.request(text)  # refuses a wrong prompt before anything is loaded
        models: kdtool.Models = opened
        if draft is not None:
            from kdtool_transformers import DraftedModels

            models = DraftedModels(opened, draft, opened.subjects, partial(kdtool.say, err=True))
        chosen = list(dict.fromkeys(names)) or [next(iter(models.subjects))]
        if chosen == [draft]:
            raise kdtool.UsageError(
                f"--draft {draft}: {draft} would draft for itself; name the model to draft for, such as --model teacher"
            )
        if text is None or interactive:
            _converse(models, chosen, settings, language, text)
        elif as_json:
            _print_json(models, chosen, settings, text)
        else:
            _print(models, chosen, settings, language, text)


def _refuse_misuse(text: str | None, *, as_json: bool, interactive: bool) -> None:
    """Refuse an empty prompt, and options that exclude each other.

    Raises:
        UsageError: the message has a remedy.
    """
    if text == "":
        raise kdtool.UsageError("the prompt is empty; give some text to continue")
    if as_json and interactive:
        raise kdtool.UsageError("--json is for scripts, and --interactive for a terminal; leave one out")
    if as_json and text is None:
        raise kdtool.UsageError("--json needs a prompt: give one as an argument, by --file or on standard input")


def _prompt(prompt: str | None, file: str | None, *, interactive: bool) -> str | None:
    """Return the prompt; None if a session asks for it.

    Raises:
        UsageError: there are two prompts, or none, or the file is not text.
    """
    if prompt is not None and file is not None:
        raise kdtool.UsageError("the prompt is given twice: as an argument and by --file; leave one out")
    if prompt is not None:
        return prompt
    if file is None and (interactive or sys.stdin.isatty()):
        return None
    try:
        if file in {None, "-"}:
            return sys.stdin.buffer.read().decode("utf-8")
        return Path(str(file)).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise kdtool.UsageError(f"the prompt in {file or 'standard input'} is not UTF-8 text; convert it") from error


def _check_language(language: str) -> None:
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        get_lexer_by_name(language)
    except ClassNotFound as error:
        raise kdtool.UsageError(
            f"--language: no colours are known for {language!r}; write python, java, cpp, go, rust, javascript, text, …"
        ) from error


def _converse(models: kdtool.Models, chosen: list[str], settings: Settings, language: str, first: str | None) -> None:
    from rich.console import Console

    from kdtool_serve.generate.terminal import Session, converse

    with Session(models, chosen, settings, Console(), language) as session:
        for name in chosen:
            session.open(name)
        kdtool.say(
            "Enter sends the prompt, Alt-Enter starts a new line, Ctrl-C stops, Ctrl-D ends; /help lists commands",
            err=True,
        )
        if first is not None:
            session.handle(first)
        converse(session, language)


def _print(models: kdtool.Models, chosen: list[str], settings: Settings, language: str, prompt: str) -> None:
    """Show the answer in colours on a terminal, and plain elsewhere; its figures go to standard error."""
    from rich.console import Console

    from kdtool_serve.generate.answers import STOPPED, answer
    from kdtool_serve.generate.terminal import Session

    if sys.stdout.isatty():
        with Session(models, chosen, settings, Console(), language) as session:
            answers = session.ask(prompt)
        if any(shown.finish == STOPPED for shown in answers.values()):
            raise KeyboardInterrupt
        return
    for name in chosen:
        with models.open(name) as runtime:
            completed = answer(
                runtime, settings.request(prompt), lambda text: click.echo(text, nl=False), raw=settings.raw
            )
        click.echo()
        kdtool.say(f"{name}: {completed.figures()}", err=True)


def _print_json(models: kdtool.Models, chosen: list[str], settings: Settings, prompt: str) -> None:
    from kdtool_serve.generate.answers import answer

    for name in chosen:
        with models.open(name) as runtime:
            answered = answer(runtime, settings.request(prompt), lambda _: None, raw=settings.raw)
        click.echo(json.dumps({"model": name, "prompt": prompt, **answered.plain()}))
