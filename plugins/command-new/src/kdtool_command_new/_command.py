"""The click command `kdtool new`: checks the arguments and lets copier write the files."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import kdtool

from kdtool_command_new._kinds import CORE, KINDS

__all__ = ["new"]

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
    "--description",
    default="",
    help="One sentence on what the plugin does; users read it in `kdtool plugins`.",
)
@click.option("--bare", is_flag=True, help="Write the smallest package that passes the tests of its kind.")
def new(kind: str, name: str, licence: str, description: str, bare: bool) -> None:
    """Create a plugin package that works as it is.

    \b
    Its folder is kdtool-KIND-NAME.
    KIND is corpus, filter, packer, teacher, cache, student, transform,
    loss, weighting, trainer, optimizer, evaluator, exporter, executor,
    tracker, reporter or command.
    NAME is what recipes will call the plugin.

    \b
    Example:  kdtool new loss mine --description "Forward KL on rare tokens"
    """  # noqa: D301 - click reads backspaces
    _check(kind, name)
    answers = _answers(kind, name, licence, _sentence(description), bare=bare)
    folder = Path(answers["distribution"])
    if folder.exists() or folder.is_symlink():
        raise kdtool.UsageError(
            f"{folder} is there already, and nothing in it is changed; choose another name or move it"
        )
    _write(folder, answers)
    click.echo(_next_steps(folder, kind, name, answers))


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
    for point in entry_points(group=KINDS[kind].group, name=name):
        owner = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
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
        "dependencies": sorted([CORE, *(about.bare if bare else about.dependencies)]),
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
