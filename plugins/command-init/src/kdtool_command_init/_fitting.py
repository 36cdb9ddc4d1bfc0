"""Layers, memory and steps of a draft, by the forecast of `kdtool.check`: nothing is loaded or trained."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import kdtool
import yaml

from kdtool_command_init._answers import TIMES, Answers
from kdtool_command_init._hardware import HERE

__all__ = ["FEWEST_STEPS", "check_recipe", "fit_recipe"]

FEWEST_STEPS = 20
"""With fewer steps a student hardly changes."""
_TRAINING = 0.9
"""Share of the time for training; the rest is for loading, exporting and measuring."""
_SHARES = (*sorted((time.layers for time in TIMES.values()), reverse=True), 1 / 6)
"""Shares of the teacher's layers that are tried, until a student fits into memory."""
_PROBE_STEPS = 100
_AGREES = "to accept these terms, add"
"""Start of the remedy if an acknowledgement is enough; other terms forbid the use."""


def fit_recipe(draft: Mapping[str, Any], answers: Answers, agree: Callable[[str], bool]) -> dict[str, Any]:
    """Return the draft with as many layers as the time suits, settings that fit into memory, and steps for the time.

    A student that is not cut from a teacher keeps its layers.

    Args:
        draft: from `draft_recipe`.
        answers: give time, memory and hardware.
        agree: called with the terms of a licence that has to be acknowledged; returns whether the user agrees.

    Raises:
        KdtoolError: of `kdtool.check`, such as terms that the user does not agree to.
        MemoryExceededError: nothing that components propose fits.
    """
    recipe = copy.deepcopy(dict(draft))
    recipe["train"]["steps"] = _PROBE_STEPS
    findings = _check_with_terms(recipe, answers, agree)
    source = findings["models"].get(recipe["student"].get("source", "teacher"))
    findings = _fit_memory(recipe, answers, source["layers"] if source else 0)
    recipe["train"]["steps"] = steps = _steps_for(answers, findings["forecast"]["seconds"])
    rows = recipe["trainer"]["batch"] * recipe["trainer"].get("accumulation", 1)
    recipe["rows"]["maximum_tokens"] = steps * rows * recipe["rows"]["length"]
    return recipe


def check_recipe(recipe: Any, answers: Answers, *, fit: bool = False) -> dict[str, Any]:
    """Check a draft or a file on the hardware of the answers; `fit` looks for settings that fit."""
    gpu = None if answers.hardware == HERE else answers.hardware
    return kdtool.check(recipe, memory=answers.memory, fit=fit, gpu=gpu)


def _check_with_terms(recipe: dict[str, Any], answers: Answers, agree: Callable[[str], bool]) -> dict[str, Any]:
    try:
        return check_recipe(recipe, answers)
    except kdtool.RecipeError as error:
        lines = {_acknowledgement(problem) for problem in error.problems}
        if "" in lines or not agree("\n".join(problem.message for problem in error.problems)):
            raise
        for line in lines:
            recipe.update(yaml.safe_load(line))
    return check_recipe(recipe, answers)


def _acknowledgement(problem: kdtool.Problem) -> str:
    """Return the line that acknowledges terms; "" for a problem that no agreement settles."""
    match = re.search(r"terms_acknowledged: .*", problem.remedy)
    return match[0] if match and problem.remedy.startswith(_AGREES) else ""


def _fit_memory(recipe: dict[str, Any], answers: Answers, layers: int) -> dict[str, Any]:
    """Keep the time's share of a teacher's `layers`, with settings that fit; fewer layers if no settings do.

    With 0 layers, for a teacher that does not describe its model, the student stays as it is. Returns the findings of check
    on the recipe that fits.
    """
    shares = [share for share in _SHARES if share <= TIMES[answers.time].layers]
    cuts = [{"layers": max(1, round(layers * share))} for share in shares] if layers else [{}]
    for cut in cuts:
        recipe["student"].update(cut)
        findings = check_recipe(recipe, answers)
        if findings["fits"]["memory"] and findings["fits"]["gpu"]:
            return findings
        proposal = check_recipe(recipe, answers, fit=True)["proposal"]
        if proposal is not None:
            _apply(recipe, proposal["settings"])
            return check_recipe(recipe, answers)
    raise kdtool.MemoryExceededError(
        f"{answers.goal if answers.memory else answers.hardware}: too little memory to train a student of "
        f"{answers.teacher} with any settings; give more memory, or a smaller --teacher"
    )


def _apply(recipe: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        *above, last = key.split(".")
        section = recipe
        for name in above:
            section = section.setdefault(name, {})
        section[last] = value


def _steps_for(answers: Answers, probe_seconds: float) -> int:
    """Return the steps for the time, rounded down to two digits; if no speed is known, for 390 tokens per second."""
    time = TIMES[answers.time]
    of_a_step = probe_seconds / _PROBE_STEPS if probe_seconds else 2 * 512 / 390
    steps = max(1, int(time.seconds * _TRAINING / of_a_step))
    unit = int(10 ** max(0, len(str(steps)) - 2))
    return steps // unit * unit
