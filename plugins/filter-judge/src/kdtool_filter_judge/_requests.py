"""Requests for verdicts: an example as a task with its answer, rendered by a template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import kdtool
from kdtool_asking import Templates

__all__ = ["NAME", "VARIABLES", "request_for", "templates_of"]

NAME = "template"
"""Name of the setting for the recipe's own template, and of the package's template."""
VARIABLES = frozenset({"answer", "criteria", "language", "task"})


def templates_of(own: Path | None, variables: Mapping[str, str]) -> Templates:
    """Return this package's templates and the recipe's own."""
    shipped, files = Path(__file__).with_name("templates"), {} if own is None else {NAME: own}
    return Templates(shipped, files, VARIABLES.union(variables), key="judge.")


def request_for(
    example: kdtool.Example, templates: Templates, criteria: Mapping[str, int], variables: Mapping[str, str], most: int
) -> kdtool.Request:
    """Return the request for a verdict of at most `most` tokens on an example. Equal texts have equal requests.

    Raises:
        UsageError: the template fails on this example.
    """
    task, answer = _task_and_answer(example.body)
    values = {
        **variables,
        "answer": answer,
        "criteria": tuple(criteria),
        "language": example.language,
        "task": task,
    }
    turns = templates.render(NAME, values)
    return kdtool.Request(hashlib.sha256(json.dumps(turns).encode()).hexdigest(), "", most, turns=turns)


def _task_and_answer(body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> tuple[str, str]:
    """Return an example's task and the answer to learn, without white space at the ends; a text has no task."""
    if isinstance(body, kdtool.Text):
        return "", body.text.strip()
    if isinstance(body, kdtool.Completion):
        return body.prompt.strip(), body.completion.strip()
    *before, (_, last) = body.turns or (("", ""),)
    task = before[0][1] if len(before) == 1 else "\n\n".join(f"{role}: {content}" for role, content in before)
    return task.strip(), last.strip()
