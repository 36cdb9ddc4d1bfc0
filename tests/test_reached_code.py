"""Artefacts that take long to make do not depend on plugins that only share a package with those that make them."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdtool._plugins.registry import find, load
from kdtool._run import sources

TRAINER = "kdtool_torch/trainer/loop.py"


def reached(kind: str, name: str) -> set[str]:
    """Return the files of a component's package and libraries that its fingerprint holds."""
    cls = load(kind, name, Path.cwd(), print).cls
    modules = [cls.__module__.partition(".")[0]]
    modules += [library.replace("-", "_") for library in sources._libraries(find(kind, name).distribution)]
    places = {module: place for module in modules if (place := sources._place_of(module))}
    return {path.as_posix().partition("/src/")[2] for path in sources._reach(cls.__module__, places)}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("teacher", "causal-lm"), ("cache", "states"), ("student", "pruned"), ("corpus", "hub"), ("exporter", "gguf")],
)
def test_signals_text_students_and_exports_stay_when_the_trainer_changes(kind: str, name: str) -> None:
    files = reached(kind, name)
    assert TRAINER not in files


def test_what_runs_is_reached() -> None:
    assert {TRAINER, "kdtool_torch/objective.py", "kdtool_torch/head.py"} <= reached("trainer", "standard")
    assert {"kdtool_transformers/model.py", "kdtool_transformers/attention.py", "kdtool_torch/batch.py"} <= reached(
        "teacher", "causal-lm"
    )
    assert {"kdtool_export/gguf/decoder_child.py", "kdtool_export/gguf/files.py"} <= reached("exporter", "gguf")
