"""Choices of teacher, hardware and text, the first three questions of `kdtool init`, and their sections of the recipe.

- teacher: installed ones that need no settings, a folder or hub name, or a server
- hardware: this machine as detected, or a GPU elsewhere
- text: what installed corpora can read

Components are found by the entry points of their packages.
"""

from __future__ import annotations

import gzip
import json
import os
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from typing import Any

import kdtool

from kdtool_essentials.init.questions import Choice


def is_installed(kind: str, *names: str) -> bool:
    """Return whether all the components of a kind are installed; `kind` is in the plural, such as "losses"."""
    return set(names) <= set(kdtool.list_plugins(f"kdtool.{kind}"))


def installed_among(kind: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the installed components among those that a recipe would use."""
    return {name: settings for name, settings in wanted.items() if is_installed(kind, name)}


_DEFAULT_TEACHER = "smollm2"
"""The teacher that is small enough for a laptop stands first."""
_FOLDER, _SERVER = "causal-lm", "openai"
_LOCAL_SERVER = "http://127.0.0.1:8000/v1"


def teacher_choices() -> list[Choice]:
    """Return the choices, the default first.

    Raises:
        UsageError: no teacher is installed.
    """
    ready = sorted(_ready_teachers().items(), key=lambda entry: (entry[0] != _DEFAULT_TEACHER, entry[0]))
    choices = [Choice(name, f"{name}: {_first_sentence(cls)}") for name, cls in ready]
    if is_installed("teachers", _FOLDER):
        choices.append(Choice("./teacher", "any other model: its folder, GGUF file, or name on the hub", open=True))
    if can_ask_servers():
        choices.append(Choice(_LOCAL_SERVER, "a model on a local server with the OpenAI protocol: its URL", open=True))
    if not choices:
        raise kdtool.UsageError(
            "no teacher is installed; `python bootstrap.py everything` in a clone of kdtool installs several"
        )
    return choices


def require_teacher(teacher: str) -> None:
    """Refuse an answer that is neither a teacher nor a server.

    Raises:
        UsageError: see `teacher_section`.
    """
    if not is_server(teacher):
        teacher_section(teacher)


def is_server(teacher: str) -> bool:
    """Return whether an answer is the URL of a server."""
    return teacher.startswith(("http://", "https://"))


def is_path(teacher: str) -> bool:
    """Return whether an answer is a folder or file here, and not the name of an installed teacher."""
    return not is_server(teacher) and not is_installed("teachers", teacher) and Path(teacher).exists()


def can_ask_servers() -> bool:
    """Return whether everything is installed for learning from a server's answers with a small student."""
    return is_installed("teachers", _SERVER, _DEFAULT_TEACHER) and is_installed("corpora", "answers")


def can_be_cut(teacher: str) -> bool:
    """Return whether a student can be cut from a teacher: one that does not describe its model has no known layers."""
    cls = _ready_teachers().get(teacher)
    return cls is None or cls.kdtool_describe is not kdtool.Teacher.kdtool_describe


def teacher_section(teacher: str) -> dict[str, Any]:
    """Return the recipe's section of an answer that is not a server.

    Raises:
        UsageError: it is neither a teacher that needs no settings, nor a folder, file or hub name.
    """
    ready = _ready_teachers()
    if teacher in ready:
        return {"use": teacher}
    if is_installed("teachers", teacher):
        raise kdtool.UsageError(
            f"--teacher {teacher} needs settings that kdtool init does not ask for; "
            f"see kdtool plugins show {teacher} --kind teacher, and write the recipe yourself"
        )
    if "/" in teacher or Path(teacher).exists():
        return {"use": _FOLDER, "model": teacher}
    raise kdtool.UsageError(
        f"--teacher {teacher} is unknown; expected {', '.join(ready)}, a folder, a name on the hub such as "
        "bigcode/starcoder2-3b, or the URL of a server"
    )


def _first_sentence(cls: type) -> str:
    return (getdoc(cls) or "").partition("\n")[0].removesuffix(".")


def _ready_teachers() -> dict[str, type[kdtool.Teacher]]:
    """Return the installed teachers that need no settings. Broken plugins are left out."""
    teachers: dict[str, type[kdtool.Teacher]] = {}
    for name in kdtool.list_plugins("kdtool.teachers"):
        try:
            cls = kdtool.load_plugin("kdtool.teachers", name)
            required = any(field.is_required() for field in cls.Config.model_fields.values())
        except Exception:  # noqa: S112 - foreign code; `kdtool plugins show` says what is wrong with it
            continue
        if not required:
            teachers[name] = cls
    return teachers


HERE = "here"


def hardware_choices() -> list[Choice]:
    """Return this machine, which is the default, and a GPU by name."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return [
        Choice(HERE, f"this machine: {cores} cores, {gpu_here() or 'no GPU'}"),
        Choice("a100-80gb", "a machine elsewhere with a GPU: t4, l4, a100-80gb, h100, …", open=True),
    ]


def require_hardware(hardware: str) -> None:
    """Refuse a name that is neither this machine nor a known GPU.

    Raises:
        UsageError: the GPU is unknown.
    """
    if hardware != HERE:
        kdtool.Gpu.find(hardware)


def has_gpu(hardware: str) -> bool:
    """Return whether an answer is a machine with a GPU."""
    return hardware != HERE or bool(gpu_here())


def gpu_here() -> str:
    """Return the name of the GPU that torch sees; "" without one, or if torch is not installed."""
    if find_spec("torch") is None:
        return ""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


LIBRARY = "library"
_FORMS = ["implement", "document", "explain"]
"""Prompts with completions that are made from documented functions and explained snippets."""
_SPLIT_SHARES = {"validation_share": 0.05, "test_share": 0.1}


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
        return {"use": "hub", "dataset": data, name: column, **_SPLIT_SHARES, **shuffled}
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
    return {"use": "hub", "files": [str(path)], **{f"{name}_column": name for name in form}, **_SPLIT_SHARES}


def _fields_of_first_line(path: Path) -> set[str]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            record = json.loads(file.readline())
    except (OSError, EOFError, ValueError) as error:
        raise kdtool.UsageError(f"--data {path} is not JSON Lines: {error}; write one JSON object per line") from error
    return set(record) if isinstance(record, dict) else set()
