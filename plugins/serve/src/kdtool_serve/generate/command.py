"""The click command `kdtool generate`, and the GGUF file that `--quantize` makes once and keeps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

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
@click.option(
    "--quantize",
    metavar="TYPE",
    help="Answer with the model's GGUF file of this type, such as q8_0; it is written once, and kept.",
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
    quantize: str | None,
    interactive: bool,
    language: str,
    as_json: bool,
    offline: bool,
    out: str,
    **answering: Any,
) -> None:
    """Continue a prompt with a student or another model.

    RUN_OR_FILE is a finished run, whose student continues, or a model's folder or file. Without a prompt, a session begins
    in the terminal, in which /help lists the commands; without a terminal, the prompt is read from standard input. An
    answer stops where the text repeats itself, and at the end of the Python function or class that the prompt begins; the
    reason is printed. --raw continues to --max-tokens.

    \b
    Example:  kdtool generate quickstart "def mean(numbers):"
    """  # noqa: D301 - click reads backspaces
    from kdtool_serve.generate.answers import Settings

    _check_language(language)
    settings = Settings(**answering)
    text = _prompt(prompt, file, interactive=interactive)
    _refuse_misuse(text, as_json=as_json, interactive=interactive)
    if text is not None:
        settings.request(text)  # refuses a wrong prompt before anything is loaded
    if quantize is not None:
        model, names = _quantise(model, quantize, names, draft, out=out, offline=offline), ()
    from kdtool_transformers.streaming import StreamedModels

    with kdtool.open_models(model, out=out, offline=offline) as opened:
        models = StreamedModels(opened, draft, opened.subjects, lambda note: click.echo(note, err=True))
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


def _quantise(model: str, kind: str, names: tuple[str, ...], draft: str | None, *, out: str, offline: bool) -> str:
    """Return the file that answers with --quantize, which is written if it is missing.

    Raises:
        UsageError: several models would answer, or one drafts; or as `quantised_file`.
        StorageError: the file cannot be written.
    """
    if draft is not None or len(names) > 1:
        raise kdtool.UsageError("--quantize answers with one file; leave out --draft, and name at most one --model")
    with kdtool.open_models(model, out=out, offline=offline) as models:
        name = names[0] if names else next(iter(models.subjects))
        return str(quantised_file(models, name, kind, lambda note: click.echo(note, err=True)))


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
        click.echo(
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
        click.echo(f"{name}: {completed.figures()}", err=True)


def _print_json(models: kdtool.Models, chosen: list[str], settings: Settings, prompt: str) -> None:
    from kdtool_serve.generate.answers import answer

    for name in chosen:
        with models.open(name) as runtime:
            answered = answer(runtime, settings.request(prompt), lambda _: None, raw=settings.raw)
        click.echo(json.dumps({"model": name, "prompt": prompt, **answered.plain()}))


def quantised_file(models: kdtool.Models, name: str, kind: str, say: Callable[[str], object]) -> Path:
    """Return the GGUF file of a model in the type `kind`, and write it if there is none since its weights changed.

    For the student this is the run's exported file of the type, if there is one; else `exports/RUN-MODEL-TYPE.gguf` in the
    run's folder. The file of a model that belongs to no run is next to its folder.

    Raises:
        UsageError: the exporter is not installed, the type is unknown, or the model is not a folder that llama.cpp can run.
        StorageError: the file cannot be written.
    """
    exporter, subject = _exporter(kind), models.subjects.get(name)
    if subject is None or subject.path is None or not subject.path.is_dir():
        raise kdtool.UsageError(
            f"--quantize {kind}: {name} is not a model's folder on this machine; name a student, or a folder"
        )
    results, folder = models.results, subject.path.absolute()
    if results is None:
        file = folder.with_name(f"{folder.name}-{kind}.gguf")
    else:
        file = Path(results.folder) / "exports" / f"{results.name}-{name}-{kind}.gguf"
        for artifact in models.subjects.values() if subject.role == "student" else ():
            if artifact.role == "artifact" and artifact.path and artifact.path.name.endswith(f"-{kind}.gguf"):
                return artifact.path
    if not file.is_file() or file.stat().st_mtime < _last_change(folder):
        say(f"writing {file} …")
        exporter.convert(folder, file, () if results is None or subject.role == "teacher" else results.licences)
    return file


def _exporter(kind: str) -> Any:
    """Return the exporter `gguf` for a type, which another package registers.

    Raises:
        UsageError: it is not installed, or the type is unknown.
    """
    group = "kdtool.exporters"
    if "gguf" not in kdtool.list_plugins(group):
        raise kdtool.UsageError("--quantize needs the exporter gguf, which is not installed; add kdtool-export")
    exporter = kdtool.load_plugin(group, "gguf")
    types = get_args(exporter.Config.model_fields["type"].annotation)
    if kind not in types:
        raise kdtool.UsageError(f"--quantize {kind}: unknown type; expected one of {', '.join(types)}")
    return exporter(exporter.Config(type=kind))


def _last_change(folder: Path) -> float:
    """Return the time at which the weights in a folder changed last; 0 without weights."""
    return max((file.stat().st_mtime for file in folder.glob("*.safetensors")), default=0.0)
