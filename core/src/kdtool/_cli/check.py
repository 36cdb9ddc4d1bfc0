"""`kdtool check RECIPE`: prints the findings of `kdtool.check`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from kdtool._cli.options import json_option, recipe_argument, set_option
from kdtool._errors import MemoryExceededError
from kdtool._estimate.machine import size


@click.command()
@recipe_argument
@set_option
@click.option("--memory", metavar="SIZE", help="Memory that the run should fit into, such as 8GB [default: all].")
@click.option("--fit", metavar="SIZE", help="Propose the largest student that fits into SIZE, and settings for it.")
@click.option("--gpu", metavar="NAME", help="Estimate for a machine with this GPU, such as t4, l4, a100-80gb or h200.")
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    default="runs",
    help="The folder for runs: earlier ones show how long training takes.",
)
@json_option
def check(
    recipe: str,
    settings: dict[str, str],
    memory: str | None,
    fit: str | None,
    gpu: str | None,
    out: str,
    as_json: bool,
) -> None:
    """Check a recipe: everything that can be known before weights load, and whether the run will fit."""
    from kdtool._estimate.check import check as check_recipe

    if memory is not None and fit is not None:
        raise click.UsageError("give --memory or --fit: the size behind --fit is the memory")
    found = check_recipe(Path(recipe), settings, memory=fit or memory, fit=fit is not None, gpu=gpu, out=out)
    fits = found["fits"]
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        advice = _proposal(found, fit) if fit is not None else _remedies(found)
        for line in (*_description(recipe, found), *_needs(found["forecast"]), *_fits(found), *advice):
            click.echo(line)
    asked = (memory is not None and not fits["memory"]) or (gpu is not None and not fits["gpu"])
    if found["proposal"] is None if fit is not None else asked:
        raise click.exceptions.Exit(MemoryExceededError.exit_code)


def _description(recipe: str, found: Mapping[str, Any]) -> Iterator[str]:
    from pydantic import TypeAdapter

    from kdtool._contract.licences import Licensed, licence_lines
    from kdtool._run.preflight.vocabularies import describe_vocabularies
    from kdtool._tokenizers.vocabulary import Vocabularies

    yield f"{recipe} is fine: {len(found['components'])} components, arms {', '.join(found['arms'])}"
    for component in found["components"]:
        line = f"  {component['name']:<28} {component['use']:<18} {component['distribution']} {component['version']}"
        yield line.rstrip()
    for name, facts in found["models"].items():
        shape = f"{facts['layers']} layers, width {facts['hidden']}, vocabulary {facts['vocabulary']:,}"
        yield f"model {name}: {facts['parameters']:,} parameters, {shape}"
        cache = size(found["forecast"]["cache"][name])
        yield f"  keys and values of {facts['context']:,} tokens in 16 bits: {cache}"
    for phase, count in found["trainable"].items():
        yield f"phase {phase}: {count:,} parameters learn"
    yield from licence_lines(TypeAdapter(tuple[Licensed, ...]).validate_python(found["licences"]), found["name"])
    yield from describe_vocabularies(TypeAdapter(dict[str, Vocabularies | None]).validate_python(found["vocabularies"]))
    yield from found["mixtures"]


def _needs(forecast: Mapping[str, Any]) -> Iterator[str]:
    for name, memory in (("memory", forecast["memory"]), ("memory of the GPU", forecast["device_memory"])):
        if memory["peak"]:
            yield f"{name}: {size(memory['peak'])} at most, in {memory['at']}"
            yield from (f"  {size(count):>9}  {part}" for part, count in memory["parts"].items())
    if forecast["disk"]:
        yield f"disk: {size(forecast['disk_bytes'])}"
    for spent in forecast["disk"]:
        times = f" × {spent['times']}" if spent["times"] > 1 else ""
        note = f" ({spent['note']})" if spent["note"] else ""
        yield f"  {size(spent['bytes']):>9}  {spent['what']} of {spent['of']}{times}{note}"
    for spent in forecast["downloads"]:
        yield f"will download {size(spent['bytes'])}: {spent['what']} of {spent['of']}"
    yield f"training: {forecast['steps']:,} steps, {forecast['tokens']:,} tokens"
    if forecast["seconds"]:
        yield f"time of training: about {_duration(forecast['seconds'])}, {forecast['speed']}"
    if forecast["picodollars"]:
        yield f"cost: {forecast['picodollars'] / 1e12:,.2f} dollars"
    yield from (f"not known: {line}" for line in forecast["unknown"])


def _fits(found: Mapping[str, Any]) -> Iterator[str]:
    forecast, limits = found["forecast"], found["limits"]
    for key, name, needed in (
        ("disk", "disk", forecast["disk_bytes"]),
        ("memory", "memory", forecast["memory"]["peak"]),
        ("gpu", "memory of the GPU", forecast["device_memory"]["peak"]),
    ):
        if not found["fits"][key]:
            text = f"does not fit: {size(needed)} of {name} are needed, of {size(limits[key])}"
            yield click.style(text, fg="red", bold=True)
        elif limits[key] and key != "disk":
            yield f"fits: {size(needed)} of {size(limits[key])} of {name}"


def _remedies(found: Mapping[str, Any]) -> Iterator[str]:
    if found["fits"]["memory"] and found["fits"]["gpu"]:
        return
    if not found["remedies"]:
        yield "no change that a component proposes makes it fit: take a smaller student or teacher"
        return
    yield "would fit:"
    for remedy in found["remedies"]:
        yield f"  {_options(remedy['settings'])}: {size(remedy['peak'])} ({remedy['cost']})"


def _proposal(found: Mapping[str, Any], limit: str) -> Iterator[str]:
    proposal = found["proposal"]
    if proposal is None:
        yield f"nothing that components propose fits into {limit}"
        return
    figures = f"a student of {proposal['parameters']:,} parameters, {size(proposal['peak'])} of {limit}"
    settings = _options(proposal["settings"]) or "the recipe as it is"
    cost = f" ({proposal['cost']})" if proposal["cost"] else ""
    yield f"proposed: {figures}: {settings}{cost}"


def _options(settings: Mapping[str, Any]) -> str:
    return " ".join(f"--set {key}={json.dumps(value)}".replace('"', "") for key, value in settings.items())


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
