"""The click command `kdtool serve`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click
import kdtool

from kdtool_serve.devices import Devices, parse_shares

KEY_VARIABLE = "KDTOOL_SERVE_KEY"


@click.command("serve")
@click.argument("model", metavar="RUN_OR_FILE")
@click.option(
    "--model", "names", multiple=True, metavar="NAME", help="Offer only this model; repeatable, the default first."
)
@click.option("--draft", metavar="NAME", help="Model of the run that drafts the teachers' tokens, which they verify.")
@click.option("--paid", is_flag=True, help="Offer teachers that cost money, too.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port [default: the first free one from 5000 on].")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; another one needs a key.")
@click.option("--key-variable", metavar="NAME", help=f"Environment variable with the key [default: {KEY_VARIABLE}].")
@click.option(
    "--allow-origin", "origins", multiple=True, metavar="URL", help="Site whose pages may use it; repeatable."
)
@click.option(
    "--queue", default=32, show_default=True, type=click.IntRange(0), help="Answers that may wait, per model."
)
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(1), help="Seconds for an answer.")
@click.option(
    "--body-limit", "body", default=1_000_000, show_default=True, type=click.IntRange(1000), help="Bytes of a request."
)
@click.option("--static", is_flag=True, help="Serve the page in a folder of the exporter web; loads no model.")
@click.option("--keep", default=0, type=click.IntRange(0), help="Models in memory at most [default: no limit].")
@click.option("--healing/--no-healing", default=Devices.healing, help="Choose a cursor's last token again.")
@click.option("--units/--no-units", default=Devices.units, help="End a completion with its line or block.")
@click.option(
    "--share", "shares", multiple=True, metavar="NAME=SHARE", help="Model for a share of completions; repeatable."
)
@click.option("--no-browser", is_flag=True, help="Do not open the page.")
@click.option("--offline", is_flag=True, help="Use no network to open models.")
@click.option("--out", type=click.Path(file_okay=False), default="runs", show_default=True, help="Folder for runs.")
def serve(
    model: str,
    names: tuple[str, ...],
    draft: str | None,
    paid: bool,
    port: int | None,
    host: str,
    key_variable: str | None,
    origins: tuple[str, ...],
    static: bool,
    shares: tuple[str, ...],
    no_browser: bool,
    offline: bool,
    out: str,
    **settings: Any,
) -> None:
    """Serve a student to browsers and editors.

    The models are those of a finished run, of a model's folder or file, or OWNER/NAME on the Hub. The page is at
    http://127.0.0.1:5000, OpenAI's protocol below /v1, Ollama's below /api, and llama.cpp's infilling at /infill. The
    student's smallest file answers unless a request names another model: student, control, teacher or another file.

    \b
    Example:  kdtool serve quickstart
    """  # noqa: D301 - click reads backspaces
    from kdtool_serve.server import listen, run, serve_static

    browser = sys.stdout.isatty() and not no_browser
    if static:
        serve_static(Path(model), host, port, browser=browser)
        return
    key = _key(host, key_variable)
    with listen(host, port) as listener, ExitStack() as stack:
        with kdtool.waiting(f"opening {model} …"):
            opened = stack.enter_context(kdtool.open_models(model, out=out, offline=offline))
            from kdtool_serve.app import Limits, create_app

        offered = _choose(opened, names, paid=paid)
        models = opened if draft is None else _with_draft(opened, draft, offered)
        is_open = host in {"0.0.0.0", "::"}  # noqa: S104
        name = f"[{host}]" if ":" in host else host
        app = create_app(
            models,
            offered=offered,
            limits=Limits(**{name: settings.pop(name) for name in ("queue", "timeout", "body", "keep")}),
            key=key,
            hosts=("*",) if is_open else ("127.0.0.1", "localhost", "[::1]", name),
            origins=origins,
            devices=Devices(**settings),
            shares=parse_shares(shares, offered),
        )
        with kdtool.waiting(f"loading {offered[0]} …"):
            app.state.pool.engines[offered[0]].open()
        url = f"http://{'127.0.0.1' if is_open else name}:{listener.getsockname()[1]}"

        def ready() -> None:
            kdtool.say(f"page  {url}/\nAPI   {url}/v1  ({', '.join(offered)}); Ctrl-C ends it")
            if browser:
                click.launch(url)

        run(app, listener, ready)


def _key(host: str, variable: str | None) -> str:
    from kdtool_serve.server import is_local

    key = os.environ.get(variable or KEY_VARIABLE, "")
    if not key and (variable or not is_local(host)):
        what = f"--key-variable {variable}" if variable else f"--host {host}"
        raise kdtool.UsageError(
            f"{what}: others may reach the server only with a key, but {variable or KEY_VARIABLE} is not set; set it to a "
            "secret of your choice, or leave out the option"
        )
    return key


def _with_draft(models: kdtool.Models, draft: str, offered: list[str]) -> kdtool.Models:
    """Return the models, of which the offered teachers are opened with the draft."""
    from kdtool_transformers import DraftedModels

    teachers = [name for name in offered if models.subjects[name].role == "teacher"]
    if not teachers:
        raise kdtool.UsageError(f"--draft {draft}: it drafts for teachers, but none is on offer; leave it out")
    return DraftedModels(models, draft, teachers, partial(kdtool.say, err=True))


def _choose(models: kdtool.Models, names: tuple[str, ...], *, paid: bool) -> list[str]:
    """Return the names of the models to offer, the default first."""
    from kdtool_serve.pool import paid_teachers, smallest_file, weights

    for name in names:
        if name not in models.subjects:
            raise kdtool.UsageError(f"--model {name}: there is no such model; there are {', '.join(models.subjects)}")
    costly = set() if paid else paid_teachers(models)
    first = smallest_file(models)
    offered = [name for name in dict.fromkeys(names or (first, *models.subjects)) if name not in costly]
    if not names and models.subjects[first].role == "artifact" and models.results is not None:
        size = weights(models.subjects[first].path) / 1e6
        kdtool.say(f"answers by default: {first}, the student's smallest file ({size:.0f} MB)", err=True)
    if left_out := sorted(costly.intersection(names or costly)):
        kdtool.say(f"not offered: {', '.join(left_out)}, because each answer costs money; add --paid", err=True)
    if not offered:
        raise kdtool.UsageError("--model: no model is left to offer; add --paid, or name another one")
    return offered
