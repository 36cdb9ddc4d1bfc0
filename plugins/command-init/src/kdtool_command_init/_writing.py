"""The recipe as commented YAML, written to a temporary file and renamed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kdtool
import yaml

__all__ = ["recipe_text", "write_recipe"]

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
    beside = path.with_name(f"{path.name}.writing")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)
    except OSError as error:
        raise kdtool.StorageError(f"{path} cannot be written: {error.strerror or error}") from error
