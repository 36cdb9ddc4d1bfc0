"""`kdtool check RECIPE`: prints the findings of `kdtool.check`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import click

from kdtool._cli.shared import folder_path, json_option, no_sandbox_option, recipe_argument, set_option, store_option
from kdtool._errors import MemoryExceededError, RecipeError, UsageError
from kdtool._estimate.machine import size
from kdtool._text.terminal import count_of, dollars, duration, print_first_line, say, style


@click.command()
@recipe_argument
@set_option
@click.option("--memory", metavar="SIZE", help="Memory that the run should fit into, such as 8GB [default: all].")
@click.option("--fit", metavar="SIZE", help="Propose the largest student that fits into SIZE, and settings for it.")
@click.option("--gpu", metavar="NAME", help="Estimate for a machine with this GPU, such as t4, a100-80gb or m2-16gb.")
@click.option("--out", type=folder_path, default="runs", help="The folder for runs, whose disk counts.")
@store_option
@click.option("--offline", is_flag=True, expose_value=False, help="Use no network; a check never does.")
@no_sandbox_option
@json_option
def check(
    recipe: str,
    settings: dict[str, str],
    memory: str | None,
    fit: str | None,
    gpu: str | None,
    out: str,
    store: str | None,
    no_sandbox: bool,
    as_json: bool,
) -> None:
    """Check a recipe, and whether the run will fit."""
    if memory is not None and fit is not None:
        raise click.UsageError("--memory and --fit are mutually exclusive: --fit has the memory")
    print_first_line("reading the recipe and its plugins, and estimating the run …")
    from kdtool._estimate.check import check as check_recipe

    if no_sandbox:
        from kdtool._assembly.trust import without_sandbox

        settings = without_sandbox(Path(recipe), settings, partial(say, err=as_json))
    memory, wanted = fit or memory, fit is not None
    try:
        report = check_recipe(Path(recipe), settings, memory=memory, fit=wanted, gpu=gpu, out=out, store=store)
    except RecipeError as error:
        arguments = f"{quote(recipe)} --gpu {quote(gpu)}" if gpu else quote(recipe)
        if line := _resolving(error, arguments, settings):
            error.add_note(line)
        raise
    fits = report["fits"]
    if as_json:
        click.echo(json.dumps(report, indent=1))
    else:
        advice = _proposal(report, recipe, settings) if wanted or not (fits["memory"] and fits["gpu"]) else ()
        noted = (*report["warnings"], *(report["lacks"] if gpu is not None else ()))
        warnings = (style(f"! {line}", fg="yellow", bold=True) for line in noted)
        for line in (*_verdict(report, here=gpu is None), *advice, *warnings, *_blocks(report)):
            say(line)
    if report["lacks"] and gpu is None:
        raise click.exceptions.Exit(UsageError.exit_code)
    asked = memory is not None or gpu is not None
    if (asked and not (fits["memory"] and fits["gpu"])) or (fit is not None and report["proposal"] is None):
        raise click.exceptions.Exit(MemoryExceededError.exit_code)


def _resolving(error: RecipeError, arguments: str, given: Mapping[str, str]) -> str:
    """Return the command with which the recipe is accepted, or the keys for which no setting is known; "" if for all."""
    if error.settings:
        return f"with all of this it is accepted:\n    kdtool check {arguments} {_options(error.settings, given)}"
    left = dict.fromkeys(problem.key for problem in error.problems if not problem.settings)
    return f"no command is proposed: no setting resolves {', '.join(left)}" if len(left) < len(error.problems) else ""


_MEMORY = (("memory", "memory", "memory"), ("gpu", "GPU memory", "device_memory"))
"""Key of the limit, name, and key in the forecast."""


def _verdict(report: Mapping[str, Any], *, here: bool) -> Iterator[str]:
    forecast, limits = report["forecast"], report["limits"]
    needed = [(key, name, forecast[entry]["peak"]) for key, name, entry in _MEMORY]
    needed.append(("disk", "disk", forecast["disk_bytes"]))
    missing = [
        f"{size(count)} of {name} needed, {size(limits[key])} available"
        for key, name, count in needed
        if not report["fits"][key]
    ]
    lacks = report["lacks"] if here else ()
    if missing or lacks:
        failures = ("does not fit", missing), ("cannot run", lacks)
        yield from (style(f"✗ {why}: {'; '.join(what)}", fg="red", bold=True) for why, what in failures if what)
        return
    unknown = ", ".join(line.partition(":")[0] for line in forecast["unknown"])
    parts = ["✓ fits" + (f", as far as is known (not known: {unknown})" if unknown else "")]
    parts += [f"{size(count)} of {size(limits[key])} {name}" for key, name, count in needed if count and limits[key]]
    if forecast["seconds"]:
        besides = ", ".join(_besides(report))
        parts.append(f"about {duration(forecast['seconds'])} of training" + (besides and f" (not counted: {besides})"))
    if forecast["most_picodollars"]:
        parts.append(f"at most {dollars(forecast['most_picodollars'], up=True)}")
    yield style(" · ".join(parts), fg="green", bold=True)


def _besides(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the time of training leaves out, in words."""
    kinds = Counter(stage.partition("/")[0] for stage in report["stages"])
    for kind, noun in (("signals", "recording"), ("scores", "measurement")):
        if kinds[kind]:
            yield count_of(kinds[kind], noun)
    if wait := report["forecast"]["waiting_seconds"]:
        yield f"up to {duration(wait)} of waiting for each batch of answers"


def _proposal(report: Mapping[str, Any], recipe: str, given: Mapping[str, str]) -> Iterator[str]:
    proposal = report["proposal"]
    if proposal is None:
        yield f"No suggested change is enough. {_largest_part(report)}"
        return
    figures = f"a student of {proposal['parameters']:,} parameters, peak memory {size(proposal['peak'])}"
    if proposal["settings"]:
        yield f"proposed: {figures}{_cost(proposal)}:"
        yield f"    kdtool run {quote(recipe)} {_options(proposal['settings'], given)}"
    else:
        yield f"the recipe fits as it is: {figures}"


def _cost(remedy: Mapping[str, Any]) -> str:
    words = [remedy["cost"], "changes the result" if remedy["changes_result"] else ""]
    return f" ({'; '.join(filter(None, words))})" if any(words) else ""


def _largest_part(report: Mapping[str, Any]) -> str:
    memory = report["forecast"]["memory" if report["fits"]["gpu"] else "device_memory"]
    part, count = next(iter(memory["parts"].items()))
    return f"Largest part: {size(count)} for {part}, {_moment(report, memory['at'])}."


def _options(settings: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """Return settings, laid over those `given` as text, as options of a command that a shell reads."""
    kept = {key: text for key, text in given.items() if not any(key.startswith(f"{new}.") for new in settings)}
    texts = {**kept, **{key: _value(value) for key, value in settings.items()}}
    return " ".join(f"--set {quote(f'{key}={text}')}" for key, text in texts.items())


def _value(value: Any) -> str:
    """Return a value as YAML: text without quotation marks where it is read as the same text."""
    from kdtool._recipe.yaml import read_scalar

    with suppress(RecipeError):  # text that is no YAML
        if isinstance(value, str) and read_scalar(value) == value:
            return value
    return json.dumps(value, ensure_ascii=False)


def _blocks(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the headings of the report, each with its lines below."""
    blocks = {
        "Memory": _memory(report),
        "Disk": _disk(report),
        "Time": _time(report),
        "Models": _models(report),
        "Licences": report["terms"],
        "Components": [f"{count_of(len(report['components']), 'component')}, arms {', '.join(report['arms'])}"],
        "Not known": report["forecast"]["unknown"],
    }
    for heading, lines in blocks.items():
        if shown := [f"  {line}" for line in lines]:
            yield from ("", style(heading, bold=True), *shown)


def _memory(report: Mapping[str, Any]) -> Iterator[str]:
    for _, name, entry in _MEMORY:
        memory = report["forecast"][entry]
        if memory["peak"]:
            yield f"peak {name} {size(memory['peak'])}, {_moment(report, memory['at'])}"
            yield from (f"{size(count):>10}  {part}" for part, count in memory["parts"].items())


def _disk(report: Mapping[str, Any]) -> Iterator[str]:
    forecast = report["forecast"]
    yield f"{size(forecast['disk_bytes'])} of {size(report['limits']['disk'])} free"
    count = Counter(spent["what"] for spent in forecast["disk"])
    yield from (f"{size(spent['bytes']):>10}  {_spent(spent, count)}" for spent in forecast["disk"])
    yield from (f"{size(spent['bytes']):>10}  download of {spent['what']}" for spent in forecast["downloads"])


def _time(report: Mapping[str, Any]) -> Iterator[str]:
    forecast = report["forecast"]
    if forecast["seconds"]:
        yield f"about {duration(forecast['seconds'])} of training ({forecast['speed']})"
    if besides := ", ".join(_besides(report)):
        yield f"not counted: {besides}"
    yield f"{count_of(forecast['steps'], 'step')}, {count_of(forecast['tokens'], 'token')}"
    if forecast["picodollars"]:
        most = dollars(forecast["most_picodollars"], up=True)
        yield f"cost: {dollars(forecast['picodollars'])} expected, if all answers have their full length; at most {most}"
        yield from (f"  {line}" for line in forecast["prices"])


def _moment(report: Mapping[str, Any], at: str) -> str:
    """Return 'in stage "training of student, seed 0" (head)' for the moment `phases/student-seed0-train: head`."""
    stage, _, moment = at.partition(": ")
    return f'in stage "{report["stages"][stage]}"' + (moment and f" ({moment})")


def _spent(spent: Mapping[str, Any], count: Mapping[str, int]) -> str:
    """Return what is written, with its stage or, where another component writes the same, its component."""
    if spent["stage"]:
        of = f", {spent['stage']}"
    elif count[spent["what"]] > 1:
        of = f" of {spent['of']}"
    else:
        of = ""
    times = f" × {spent['times']}" if spent["times"] > 1 else ""
    return f"{spent['what']}{of}{times}{' (' + spent['note'] + ')' if spent['note'] else ''}"


def _models(report: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in report["models"].items():
        shape = f"{count_of(facts['layers'], 'layer')}, width {facts['hidden']}, vocabulary {facts['vocabulary']:,}"
        yield f"{name}: {facts['parameters']:,} parameters, {shape}"
        if facts["context"]:
            cache = size(report["forecast"]["cache"][name])
            yield f"  KV cache for {facts['context']:,} tokens (16-bit): {cache}"
    for training, count in report["trainable"].items():
        yield f"{training}: {count:,} trainable parameters"
    yield from report["notes"]
