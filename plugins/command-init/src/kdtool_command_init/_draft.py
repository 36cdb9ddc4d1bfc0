"""The recipe that follows from the answers; layers and steps are set afterwards, by `_fitting`."""

from __future__ import annotations

from typing import Any

import kdtool

from kdtool_command_init._answers import COMPLETION, INSTRUCTIONS, TIMES, Answers
from kdtool_command_init._data import corpus_section
from kdtool_command_init._installed import installed_among, is_installed
from kdtool_command_init._teachers import can_be_cut, is_server, teacher_section

__all__ = ["draft_recipe"]

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
        "perplexity": {"documents": 32, "characters": 1500},
        "agreement": {"documents": 32, "tokens": 256},
        "efficiency": {},
    }
    if is_server(answers.teacher):
        del wanted["agreement"]  # a server does not return the likelihoods of given text
    if answers.goal == COMPLETION and answers.time != "10min":
        wanted["line-completion"] = {"documents": 16, "places": 2}
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
