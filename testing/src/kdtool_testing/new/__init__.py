"""`kdtool new KIND NAME`: a new package with a working plugin, made from the templates next to this file.

`new` is the click command that the entry point names. It checks the arguments, answers the template's questions and lets
copier write the files. Nothing is asked, fetched or run, and existing files are never changed. `KINDS` lists the kinds of
plugin, what the package of each needs, and how a recipe uses it; `template/kinds` contains their code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
import kdtool
from kdtool._plugins.registry import entries_by_name

TEMPLATE = Path(__file__).parent / "template"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME, _LONGEST_DESCRIPTION = 40, 100


@click.command()
@click.argument("kind")
@click.argument("name")
@click.option(
    "--licence",
    type=click.Choice(["MIT", "Apache-2.0", "none"]),
    default="MIT",
    show_default=True,
    help="Under which licence the package is; its LICENSE file comes along.",
)
@click.option(
    "--description", default="", help="One sentence on what the plugin does; users read it in `kdtool plugins`."
)
@click.option("--bare", is_flag=True, help="Write the smallest package that passes the tests of its kind.")
def new(kind: str, name: str, licence: str, description: str, bare: bool) -> None:
    """Create a plugin package that works as it is.

    \b
    Its folder is kdtool-KIND-NAME.
    NAME is what recipes will call the plugin.

    KIND is corpus, filter, packer, teacher, cache, student, transform, loss, weighting, trainer, optimizer, evaluator,
    exporter, executor, tracker, reporter or command.

    \b
    Example:  kdtool new loss mine --description "Rare tokens"
    """  # noqa: D301 - click reads backspaces
    _check(kind, name)
    answers = _answers(kind, name, licence, _sentence(description), bare=bare)
    folder = Path(answers["distribution"])
    if folder.exists() or folder.is_symlink():
        raise kdtool.UsageError(
            f"{folder} is there already, and nothing in it is changed; choose another name or move it"
        )
    _write(folder, answers)
    kdtool.say(_next_steps(folder, kind, name, answers))


def _check(kind: str, name: str) -> None:
    """Refuse an unknown kind, a name that cannot be one, and a name that an installed plugin has."""
    if kind not in KINDS:
        close = get_close_matches(kind.lower(), KINDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(KINDS)}"
        raise kdtool.UsageError(f"unknown kind of plugin {kind!r}; {hint}")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise kdtool.UsageError(
            f"{name!r} cannot be a plugin's name: it takes lower-case letters, digits and single hyphens, begins with a "
            f"letter and has {_LONGEST_NAME} characters at most, such as focal-kl"
        )
    for entry in entries_by_name(kind).get(name, ()):
        owner = f"{entry.distribution} {entry.version}" if entry.distribution else entry.value
        raise kdtool.UsageError(f"the {kind} {name!r} is there already, from {owner}; choose another name")
    if kind == "command" and name in _core_commands():
        raise kdtool.UsageError(f"the command {name!r} is kdtool's own; choose another name")


def _core_commands() -> list[str]:
    context = click.get_current_context().find_root()
    return context.command.list_commands(context) if isinstance(context.command, click.Group) else []


def _sentence(description: str) -> str:
    """Return the description with a full stop at its end; refuse one that would need escapes in Python or TOML."""
    sentence = description.strip()
    if not sentence.isprintable() or '"' in sentence or "\\" in sentence or len(sentence) > _LONGEST_DESCRIPTION:
        raise kdtool.UsageError(
            f"--description must be one line of at most {_LONGEST_DESCRIPTION} characters without double quotes and "
            f"backslashes, not {description[: _LONGEST_DESCRIPTION + 10]!r}; write more into README.md afterwards"
        )
    return sentence if not sentence or sentence[-1] in ".?!" else f"{sentence}."


def _answers(kind: str, name: str, licence: str, description: str, *, bare: bool) -> dict[str, Any]:
    """Return what the template asks for."""
    words, about = name.split("-"), KINDS[kind]
    # with the kind, no name can be a keyword or stand for something else in the module
    called = words if kind in words else [*words, kind]
    class_name, function_name = "".join(word.capitalize() for word in called), "_".join(called)
    return {
        "kind": kind,
        "name": name,
        "distribution": f"kdtool-{kind}-{name}",
        "import_name": f"kdtool_{kind}_{'_'.join(words)}",
        "class_name": class_name,
        "function_name": function_name,
        "offered": function_name if kind == "command" else class_name,
        "suite": f"{'TokenLoss' if kind == 'loss' else kind.capitalize()}Conformance",
        "group": about.group,
        "recipe": about.recipe.replace("NAME", name),
        "description": description,
        "dependencies": sorted([CORE_REQUIREMENT, *(about.bare if bare else about.dependencies)]),
        "licence": licence,
        "bare": bare,
    }


def _write(folder: Path, answers: dict[str, Any]) -> None:
    from copier import Settings, run_copy

    # own Settings: a user's copier settings must neither answer questions nor trust anything here
    try:
        run_copy(str(TEMPLATE), folder, data=answers, settings=Settings(), defaults=True, quiet=True)
    except OSError as error:
        raise kdtool.StorageError(f"{folder} cannot be written: {error.strerror or error}") from error


def _next_steps(folder: Path, kind: str, name: str, answers: dict[str, Any]) -> str:
    module = folder / "src" / answers["import_name"] / "__init__.py"
    command = kind == "command"
    listing = "kdtool plugins list" if command else f"kdtool plugins show {name} --kind {kind}"
    small_run = "a small run, for the command to work on" if command else "a small run with it"
    run = "" if answers["bare"] else f"\n  kdtool run recipe.yaml          {small_run}"
    arguments = "" if answers["bare"] else f" runs/try-{name}"
    use = f"\n  {f'kdtool {name}{arguments}':<31} the new command" if command else ""
    return f"""Created {folder}, a package with the {kind} {name!r}.

Next:
  cd {folder}
  pip install -e ".[test]"
  pytest                          its tests, and what kdtool asks of every {kind}
  {listing}{run}{use}

Then make it your own: {module}"""


CORE_REQUIREMENT = "kdtool>=0.1,<0.2"
KDTOOL_MEASURING, KDTOOL_TORCH, KDTOOL_TRANSFORMERS = (
    f"kdtool-{library}>=0.1" for library in ("measuring", "torch", "transformers")
)
SAFETENSORS, TORCH, TRANSFORMERS = "safetensors>=0.8", "torch>=2.8", "transformers>=5.23"


@dataclass(frozen=True)
class Kind:
    """One kind: its entry-point group, and the modules that its plugin imports in addition to kdtool.

    `recipe` is the part of a recipe that uses the plugin NAME; `bare` is what a bare plugin imports.
    """

    group: str
    recipe: str
    dependencies: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()


KINDS: Mapping[str, Kind] = {
    "corpus": Kind("kdtool.corpora", "corpus: {use: NAME}"),
    "filter": Kind("kdtool.filters", "filters: {NAME: {}}"),
    "packer": Kind("kdtool.packers", "rows: {use: NAME}"),
    "teacher": Kind(
        "kdtool.teachers", "teacher: {use: NAME}", (KDTOOL_TORCH, KDTOOL_TRANSFORMERS, TORCH), (KDTOOL_TRANSFORMERS,)
    ),
    "cache": Kind(
        "kdtool.caches", "signals: {use: NAME}", (KDTOOL_TORCH, "safetensors[torch]>=0.8", TORCH), (KDTOOL_TORCH,)
    ),
    "student": Kind(
        "kdtool.students",
        "student: {use: NAME}",
        (KDTOOL_TORCH, KDTOOL_TRANSFORMERS, TRANSFORMERS),
        ("kdtool-student-gpt>=0.1",),
    ),
    "transform": Kind("kdtool.transforms", "train: {transforms: {NAME: {}}, losses: {ce: {}}, steps: 8}", (TORCH,)),
    "loss": Kind("kdtool.losses", "train: {losses: {NAME: {}}, steps: 8}", (TORCH,)),
    "weighting": Kind("kdtool.weightings", "train: {weightings: {NAME: {}}, losses: {ce: {}}, steps: 8}", (TORCH,)),
    "trainer": Kind(
        "kdtool.trainers",
        "trainer: {use: NAME, learning_rate: 1e-3}",
        (KDTOOL_TORCH, SAFETENSORS, TORCH),
        (KDTOOL_TORCH,),
    ),
    "optimizer": Kind("kdtool.optimizers", "optimizer: {use: NAME}", (TORCH,), (TORCH,)),
    "evaluator": Kind("kdtool.evaluators", "evaluators: {NAME: {}}", (KDTOOL_MEASURING,), (KDTOOL_MEASURING,)),
    "exporter": Kind("kdtool.exporters", "exporters: [NAME]", (KDTOOL_TRANSFORMERS, SAFETENSORS, TRANSFORMERS)),
    "executor": Kind("kdtool.executors", "executor: {use: NAME}", ("submitit>=1.5.3",), ("submitit>=1.5.3",)),
    "tracker": Kind("kdtool.trackers", "trackers: [NAME]"),
    "reporter": Kind("kdtool.reporters", "reporter: NAME"),
    "command": Kind("kdtool.commands", "", ("click>=8.1.7",), ("click>=8.1.7",)),
}
