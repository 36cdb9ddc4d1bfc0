"""The third question: where the text comes from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import kdtool

from kdtool_command_init._installed import is_installed
from kdtool_command_init._questions import Choice

__all__ = ["LIBRARY", "corpus_section", "data_choices", "is_hub_name", "require_data"]

LIBRARY = "library"
_FORMS = ["implement", "document", "explain"]
"""Prompts with completions that are made from documented functions and explained snippets."""
_SHARES = {"validation_share": 0.05, "test_share": 0.1}


def data_choices() -> list[Choice]:
    """Return the choices that installed corpora can read, the default first.

    Raises:
        UsageError: none is installed.
    """
    choices = []
    if is_installed("corpora", "python-source"):
        choices.append(Choice(LIBRARY, "Python's standard library, from this machine"))
        choices.append(Choice("src", "a folder with your Python files", open=True))
    if is_installed("corpora", "jsonl") or is_installed("corpora", "hub"):
        choices.append(Choice("train.jsonl", "a JSON Lines file: text, prompt and completion, or messages", open=True))
    if is_installed("corpora", "hub"):
        choices.append(Choice("codeparrot/codeparrot-clean", "a dataset on the Hugging Face Hub", open=True))
    if not choices:
        raise kdtool.UsageError(
            "no corpus is installed; `python bootstrap.py everything` in a clone of kdtool installs several"
        )
    return choices


def require_data(data: str) -> None:
    """Refuse an answer that is neither local text nor a name on the Hub.

    Raises:
        UsageError: see `corpus_section`.
    """
    corpus_section(data, "text", instructions=False)


def is_hub_name(data: str) -> bool:
    """Return whether an answer names a dataset on the Hub: owner/name, with no local file or folder of that name."""
    return data.count("/") == 1 and not data.startswith((".", "/", "~")) and not Path(data).exists()


def corpus_section(data: str, column: str, *, instructions: bool) -> dict[str, Any]:
    """Return the recipe's section of an answer.

    Args:
        data: a folder, a JSON Lines file, `library`, or a name on the Hub.
        column: of a dataset on the Hub: the text, or the conversations if `instructions`.
        instructions: the student is to follow instructions, so prompts with completions are needed.

    Raises:
        UsageError: nothing of that name is here, or it lacks what is needed.
    """
    forms = {"forms": _FORMS} if instructions else {}
    path = Path(data)
    if data == LIBRARY:
        return {"use": "python-source", **forms}
    if path.is_dir():
        if next(path.glob("**/*.py"), None) is None:
            raise kdtool.UsageError(
                f"--data {data} contains no Python files; give a folder with *.py, or a JSON Lines file"
            )
        return {"use": "python-source", "folder": data, **forms}
    if path.is_file():
        return _jsonl_section(path, instructions=instructions)
    if is_hub_name(data):
        name = "messages_column" if instructions else "text_column"
        shuffled = {"maximum_examples": 20000, "shuffle_buffer": 2000}
        return {"use": "hub", "dataset": data, name: column, **_SHARES, **shuffled}
    raise kdtool.UsageError(
        f"--data {data} does not exist; expected {LIBRARY}, a folder, a JSON Lines file, or owner/name on the hub"
    )


def _jsonl_section(path: Path, *, instructions: bool) -> dict[str, Any]:
    """Return the section of a file by the fields of its first line. Without splits, `hub` sets lines aside for tests."""
    fields = _fields_of_first_line(path)
    forms = [("messages",), ("prompt", "chosen", "rejected"), ("prompt", "completion"), ("text",)]
    form = next((form for form in forms if fields.issuperset(form)), None)
    if form is None:
        raise kdtool.UsageError(
            f"--data {path}: its first line has the fields {', '.join(sorted(fields)) or 'none'}; expected text, or "
            "prompt and completion, or messages; rename them"
        )
    if instructions and form == ("text",):
        raise kdtool.UsageError(
            f"--data {path} contains plain text, and --goal instructions needs prompt and completion, or messages; "
            "give --goal completion, or another file"
        )
    if "split" in fields or not is_installed("corpora", "hub"):
        return {"use": "jsonl", "files": [str(path)]}
    return {"use": "hub", "files": [str(path)], **{f"{name}_column": name for name in form}, **_SHARES}


def _fields_of_first_line(path: Path) -> set[str]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            record = json.loads(file.readline())
    except (OSError, EOFError, ValueError) as error:
        raise kdtool.UsageError(f"--data {path} is not JSON Lines: {error}; write one JSON object per line") from error
    return set(record) if isinstance(record, dict) else set()
