"""The recipe of `kdtool init`: drafted from the answers, fitted to memory and time, and written as commented YAML.

Layers, memory and steps of the draft are set by the forecast of `kdtool.check`: nothing is loaded or trained.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kdtool
import yaml

from kdtool_essentials.init.choices import (
    HERE,
    can_be_cut,
    corpus_section,
    installed_among,
    is_installed,
    is_server,
    teacher_section,
)
from kdtool_essentials.init.questions import COMPLETION, INSTRUCTIONS, TIMES, Answers

_GPT = {"use": "gpt", "layers": 4, "hidden": 512, "heads": 8}
"""The student of a teacher that cannot be cut: 13 million parameters and the embeddings."""


def draft_recipe(name: str, answers: Answers) -> dict[str, Any]:
    """Return a recipe with one layer and one step.

    Raises:
        UsageError: an answer names something that does not exist or is not installed, or answers contradict each other.
    """
    corpus = corpus_section(answers.data, answers.column, instructions=answers.goal == INSTRUCTIONS)
    batch, length = (8, 1024) if answers.gpu else (1, 512)
    recipe: dict[str, Any] = {
        "name": name,
        "seeds": [0],
        "corpus": corpus,
        "rows": {"use": "packed", "length": length},
        "teacher": {},
        "student": {"use": "pruned", "layers": 1},
        "trainer": {"use": "standard", "batch": batch, "learning_rate": 0.0005},
        "train": {
            "transforms": {"freeze": {}},
            "losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}, "hidden": {"weight": 5.0}},
            "steps": 1,
        },
        "control": {"match": "tokens", "losses": {"ce": {}}},
        "evaluators": _evaluators(answers),
        "exporters": list(installed_among("exporters", {"safetensors": {}})),
        "trackers": list(installed_among("trackers", {"console": {}})),
        "reporter": {"use": "html"},
    }
    if is_server(answers.teacher):
        return _learn_from_answers(recipe, answers)
    recipe["teacher"] = teacher_section(answers.teacher)
    return recipe if can_be_cut(answers.teacher) else _learn_from_scratch(recipe, answers)


def _evaluators(answers: Answers) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "perplexity": {"limit": 32, "characters": 1500},
        "agreement": {"limit": 32, "tokens": 256},
        "efficiency": {},
    }
    if is_server(answers.teacher):
        del wanted["agreement"]  # a server does not return the likelihoods of given text
    if answers.goal == COMPLETION and answers.time != "10min":
        wanted["line-completion"] = {"limit": 16, "places": 2}
    return installed_among("evaluators", wanted)


def _learn_from_scratch(recipe: dict[str, Any], answers: Answers) -> dict[str, Any]:
    """Replace the cut student by a small one with random weights, and leave out the loss that compares layers."""
    if not is_installed("students", "gpt"):
        raise kdtool.UsageError(
            f"--teacher {answers.teacher} does not describe its model, so no layers can be cut from it, and the student "
            "gpt, which needs none, is not installed; install it by `python bootstrap.py everything` in a clone of kdtool, "
            "or give another --teacher"
        )
    losses = {name: settings for name, settings in recipe["train"]["losses"].items() if name != "hidden"}
    return recipe | {"student": dict(_GPT), "train": {"losses": losses, "steps": 1}}


def _learn_from_answers(recipe: dict[str, Any], answers: Answers) -> dict[str, Any]:
    """Replace the teacher by a server whose answers a student of the small teacher learns, as plain text."""
    server = {"use": "openai", "url": answers.teacher, "model": answers.model}
    if answers.licence:
        server["licence"] = answers.licence
    asked = {"use": "answers", "ask": "teachers.answers", "corpus": "corpora.prompts", "max_tokens": 256}
    changes = {
        "corpora": {
            "prompts": recipe["corpus"],
            "answers": {**asked, "limit": TIMES[answers.time].answers, "keep_truncated": True},
        },
        "teachers": {"answers": server, "base": {"use": "smollm2"}},
        "student": {**recipe["student"], "source": "teachers.base"},
        "train": {**recipe["train"], "losses": {"ce": {}}},
    }
    names = {"corpus": "corpora", "teacher": "teachers"}
    kept = {names.get(key, key): value for key, value in recipe.items() if key != "control"}
    return kept | changes


FEWEST_STEPS = 20
"""With fewer steps a student hardly changes."""
_TRAINING = 0.9
"""Share of the time for training; the rest is for loading, exporting and measuring."""
_LAYER_SHARES = (*sorted((time.layers for time in TIMES.values()), reverse=True), 1 / 6)
"""Shares of the teacher's layers that are tried, until a student fits into memory."""
_PROBE_STEPS = 100
_DIVIDED = ("python-source", "hub")
"""Corpora that set aside a share of their text."""
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
    _set_test_share(recipe, findings["documents"])
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
    shares = [share for share in _LAYER_SHARES if share <= TIMES[answers.time].layers]
    cuts = [{"layers": max(1, round(layers * share))} for share in shares] if layers else [{}]
    for cut in cuts:
        recipe["student"].update(cut)
        findings = check_recipe(recipe, answers)
        if findings["fits"]["memory"] and findings["fits"]["gpu"]:
            return findings
        proposal = check_recipe(recipe, answers, fit=True)["proposal"]
        if proposal is not None:
            _apply_settings(recipe, proposal["settings"])
            return check_recipe(recipe, answers)
    raise kdtool.MemoryExceededError(
        f"{answers.goal if answers.memory else answers.hardware}: too little memory to train a student of "
        f"{answers.teacher} with any settings; give more memory, or a smaller --teacher"
    )


_ENOUGH = 32
"""Test documents that evaluators read; a verdict needs 12."""


def _set_test_share(recipe: dict[str, Any], documents: Mapping[str, int]) -> None:
    """Set aside more of a short text: enough documents, or 30 % of them, or those that a verdict needs and some to spare.

    Hashes choose the documents, so they may be some fewer.
    """
    if recipe.get("corpus", {}).get("use") in _DIVIDED and documents.get("test", _ENOUGH) < _ENOUGH:
        every = sum(documents.values())
        share = max(0.1, min(0.3, 1.25 * _ENOUGH / every), min(0.45, 15 / every))
        recipe["corpus"]["test_share"] = round(share, 2)


def _apply_settings(recipe: dict[str, Any], settings: Mapping[str, Any]) -> None:
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


_COMMENTS = {
    "seeds": "More seeds show how much is chance, and take as much longer: [0, 1, 2]",
    "terms_acknowledged": "Licences that you have read and agreed to.",
    "corpus": "Text to learn from; part of it is set aside for measuring.",
    "corpora": "Prompts are cut from text; the server answers them, and the student learns the answers.",
    "rows": "Tokens of a row, and of all rows: the text that the steps below see once.",
    "teacher": "The model to learn from.",
    "teachers": "The server that answers, and the small model that the student is cut from.",
    "student": "The teacher with fewer layers. Fewer are faster, and need more training to recover.",
    "trainer": "Rows of a step (batch) and peak learning rate. Less memory: a smaller batch with accumulation.",
    "train": "Embeddings stay frozen. Other losses: `kdtool plugins --kind loss`. Steps fill the time that you chose.",
    "control": "The same student without the teacher, on as many tokens: it shows whether the teacher helped.",
    "evaluators": "Measurements of teacher, student and control, on text set aside from training.",
    "exporters": "Format of the saved student.",
    "trackers": "Progress in the terminal, and every event as a JSON line.",
    "reporter": "The report: one HTML page.",
}
_COMMENTS_FROM_SCRATCH = {
    "student": "A small model with random weights: layers can only be cut from a teacher that describes its model.",
    "train": "Other losses: `kdtool plugins --kind loss`. Steps fill the time that you chose.",
}


def recipe_text(recipe: Mapping[str, Any], command: str) -> str:
    """Return the recipe as YAML with a comment above each section, below the command that writes it again."""
    comments = _COMMENTS if recipe["student"]["use"] == "pruned" else _COMMENTS | _COMMENTS_FROM_SCRATCH
    lines = [
        f"# Written by: {command}",
        "# Check it with `kdtool check`, run it with `kdtool run`; change what you like.",
    ]
    for key, value in recipe.items():
        lines += ["", f"# {comments[key]}"] if key in comments else [""]
        flow = None if isinstance(value, dict | list) else False  # None: inner collections on one line
        options = {"sort_keys": False, "allow_unicode": True, "width": 100}
        lines.append(yaml.safe_dump({key: value}, default_flow_style=flow, **options).rstrip())
    return "\n".join([*lines, ""])


def write_recipe(path: Path, text: str) -> None:
    """Write a temporary file next to `path` and rename it, so that the recipe is complete or absent.

    Raises:
        StorageError: the folder takes no files.
    """
    try:
        kdtool.write_beside(path, text)
    except OSError as error:
        raise kdtool.StorageError(f"{path} cannot be written: {error.strerror or error}") from error
