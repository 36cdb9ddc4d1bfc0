"""The first question: installed teachers that need no settings, a folder or hub name, or a server."""

from __future__ import annotations

from importlib.metadata import entry_points
from inspect import getdoc
from pathlib import Path
from typing import Any

import kdtool

from kdtool_command_init._installed import is_installed
from kdtool_command_init._questions import Choice

__all__ = ["can_be_cut", "is_path", "is_server", "require_teacher", "teacher_choices", "teacher_section"]

_DEFAULT = "smollm2"
"""The teacher that is small enough for a laptop stands first."""
_FOLDER, _SERVER = "causal-lm", "openai"
_LOCAL_SERVER = "http://127.0.0.1:8000/v1"


def teacher_choices() -> list[Choice]:
    """Return the choices, the default first.

    Raises:
        UsageError: no teacher is installed.
    """
    ready = sorted(_ready_teachers().items(), key=lambda entry: (entry[0] != _DEFAULT, entry[0]))
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
    return is_installed("teachers", _SERVER, _DEFAULT) and is_installed("corpora", "answers")


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
    for point in entry_points(group="kdtool.teachers"):
        try:
            cls = point.load()
            required = [name for name, field in cls.Config.model_fields.items() if field.is_required()]
        except Exception:  # noqa: S112 - foreign code; `kdtool plugins show` says what is wrong with it
            continue
        if not required:
            teachers[point.name] = cls
    return teachers
