"""`kdtool init`: five questions, and a commented recipe that `kdtool check` accepts.

The command asks, fits the recipe to the answers, writes it, and shows the verdict.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import kdtool
from kdtool._text.terminal import print_first_line

from kdtool_essentials.init.choices import (
    LIBRARY,
    data_choices,
    hardware_choices,
    has_gpu,
    is_hub_name,
    is_path,
    is_server,
    require_data,
    require_hardware,
    require_teacher,
    teacher_choices,
)
from kdtool_essentials.init.questions import (
    INSTRUCTIONS,
    TIMES,
    Answers,
    Choice,
    Questions,
    goal_choices,
    require_goal,
    require_time,
    time_choices,
)
from kdtool_essentials.init.recipe import (
    FEWEST_STEPS,
    check_recipe,
    draft_recipe,
    fit_recipe,
    recipe_text,
    write_recipe,
)

__all__ = ["init"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=Path("recipe.yaml"))
@click.option("--teacher", metavar="NAME", help="An installed teacher, a folder, a hub name, or the URL of a server.")
@click.option("--model", metavar="NAME", help="The model's name on that server.")
@click.option("--licence", metavar="SPDX", help="The licence of that server's model, such as apache-2.0.")
@click.option("--hardware", metavar="NAME", help="here, or the GPU of another machine, as in kdtool check --gpu.")
@click.option("--data", metavar="PATH", help="library, a folder of Python files, a JSON Lines file, or a hub name.")
@click.option("--column", metavar="NAME", help="The column, for a dataset on the Hub.")
@click.option("--goal", metavar="GOAL", help="completion, instructions, or the memory to fit into, such as 8GB.")
@click.option("--time", metavar="TIME", help="Time of the run: 10min, 1h or night.")
@click.option("--agree", is_flag=True, help="You have read the terms of the teacher and agree to them.")
@click.option("--yes", is_flag=True, help="Ask nothing: take the default of every question without an option.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def init(file: Path, agree: bool, yes: bool, force: bool, **given: str | None) -> None:
    """Write a recipe that runs, after five questions.

    \b
    They are about teacher, hardware, data, goal and time.
    Every question has a default (Enter) and an option.
    Example:  kdtool init --data src --time 1h
    """  # noqa: D301 - click reads backspaces
    _require_place(file, force=force)
    print_first_line("reading plugins …")
    questions = Questions(take_defaults=yes)
    answers = _locate(_ask(questions, given), file)

    def agrees(terms: str) -> bool:
        kdtool.say(f"\n{terms}")
        agreed = agree or questions.confirm("--agree", "Have you read these terms, and do you agree?")
        print_first_line(_CHECKING)
        return agreed

    print_first_line(_CHECKING)
    again = _command(file, answers)
    try:
        recipe = fit_recipe(draft_recipe(_name_of(file), answers), answers, agrees)
    except kdtool.KdtoolError:
        kdtool.say(f"Nothing is written. The same answers again:\n    {again}\n", err=True)
        raise
    _require_place(file, force=force)
    write_recipe(file, recipe_text(recipe, f"{again} --agree" if "terms_acknowledged" in recipe else again))
    kdtool.say(_verdict(file, check_recipe(file, answers), answers))


_CHECKING = "checking the recipe, without loading weights …"


def _require_place(file: Path, *, force: bool) -> None:
    if file.exists() and not force:
        raise kdtool.UsageError(f"{file} exists; give another file name, or --force to overwrite it")
    if not file.parent.is_dir():
        raise kdtool.UsageError(f"the folder {file.parent} does not exist; make it, or give another file name")


def _ask(questions: Questions, given: dict[str, str | None]) -> Answers:
    """Return the answers of options and questions, in the order of the questions."""

    def choose(name: str, title: str, choices: list[Choice], validate: Callable[[str], object]) -> str:
        return questions.choose(f"--{name}", title, choices, validate, given[name])

    teacher = choose("teacher", "Which teacher?", teacher_choices(), require_teacher)
    model = licence = column = ""
    if is_server(teacher):
        model = questions.fill_in("--model", "  Name of its model", "", given["model"])
        licence_title = "  Licence of its model, such as apache-2.0 (Enter: the publisher's)"
        licence = questions.fill_in("--licence", licence_title, "", given["licence"])
        if not model:
            raise kdtool.UsageError("--model is missing; give the name of the model as the server lists it")
    hardware = choose("hardware", "On which machine?", hardware_choices(), require_hardware)
    data = choose("data", "Which text?", data_choices(), require_data)
    goal = choose("goal", "What for?", goal_choices(), require_goal)
    if is_hub_name(data):
        default = "messages" if goal == INSTRUCTIONS else "text"
        column = questions.fill_in("--column", "  Column of the dataset", default, given["column"])
    time = choose("time", "How long may it take?", time_choices(), require_time)
    return Answers(teacher, hardware, has_gpu(hardware), data, goal, time, model, licence, column)


def _locate(answers: Answers, file: Path) -> Answers:
    """Return the answers with absolute paths if the file is in another folder: paths are relative to the recipe's folder."""
    if file.parent.resolve() == Path.cwd():
        return answers
    teacher, data = answers.teacher, answers.data
    if is_path(teacher):
        teacher = str(Path(teacher).resolve())
    if data != LIBRARY and Path(data).exists():
        data = str(Path(data).resolve())
    return replace(answers, teacher=teacher, data=data)


def _name_of(file: Path) -> str:
    """Return a name for the run: letters, digits and hyphens of the file's name."""
    return re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-") or "recipe"


def _command(file: Path, answers: Answers) -> str:
    """Return the command that gives the same answers again."""
    names = ("teacher", "model", "licence", "hardware", "data", "column", "goal", "time")
    options = [word for name in names if (value := getattr(answers, name)) for word in (f"--{name}", value)]
    return shlex.join(["kdtool", "init", str(file), *options])


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"


def _verdict(file: Path, findings: Mapping[str, Any], answers: Answers) -> str:
    """Return the findings of check on the written recipe, and the commands to run next."""
    forecast = findings["forecast"]
    steps = forecast["steps"] // len(findings["arms"])
    trained = f"{kdtool.count_of(steps, 'step')} each, {kdtool.count_of(forecast['tokens'], 'token')} in all"
    documents = ", ".join(f"{count:,} for {split}" for split, count in findings["documents"].items())
    lines = [
        f"{file} is fine: {kdtool.count_of(len(findings['components']), 'component')}, arms {', '.join(findings['arms'])}",
        f"  student: {findings['models']['student']['parameters'] / 1e6:,.0f} million parameters",
        *([f"  documents: {documents}"] if documents else []),
        f"  training: {trained}, for {TIMES[answers.time].words}",
        f"  memory: {_gigabytes(max(forecast['memory']['peak'], forecast['device_memory']['peak']))}",
        *(f"  download: {_gigabytes(each['bytes'])}, {each['what']} of {each['of']}" for each in forecast["downloads"]),
        *(f"  not known: {line}" for line in forecast["unknown"]),
        *(f"  {line}" for line in findings["warnings"]),
    ]
    if steps < FEWEST_STEPS:
        lines.append("  too few steps to change much: give more --time, or a smaller --teacher")
    path = shlex.quote(str(file))
    steps_after = f"""
Next:
  kdtool check {path}    memory, disk, time and licences in full
  kdtool run {path}      after Ctrl-C or a crash, the same command resumes the run"""
    return "\n".join([*lines, steps_after])
