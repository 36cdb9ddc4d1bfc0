"""Count the files that a reader opens to follow a training step, a score, and a whole run of a tiny model.

    python tests/traced_files.py        # a row each: files, packages, functions

Counts Python functions that are called, of kdtool and its packages, on every thread except daemons, which show events and
time whenever they come to it: of a step, all between the starts of the third and the fourth; of a score, all while
`perplexity` measures the student; of a run, all of it.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STEP, SCORE = "make_step", "kdtool_evaluate"
RECIPE: dict[str, Any] = {
    "name": "traced",
    "seeds": [0],
    "corpus": {"use": "python-source", "train_files": 8, "validation_files": 2, "test_files": 3},
    "rows": {"use": "packed", "length": 64, "maximum_tokens": 2048},
    "student": {"use": "pruned", "layers": 3},
    "trainer": {"use": "standard", "batch": 2, "dtype": "float32", "learning_rate": 1e-2},
    "train": {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 4},
    "control": False,
    "evaluators": {"perplexity": {"limit": 3, "characters": 400}},
    "exporters": ["safetensors"],
}


class Traced(NamedTuple):
    """Functions that were called, with their files and packages."""

    files: frozenset[str]
    packages: frozenset[str]
    functions: frozenset[tuple[str, str, int]]


class _Tracer:
    """Notes every call of a function of the repository's packages, with the number of steps and scores begun."""

    def __init__(self) -> None:
        self.calls: dict[str, set[tuple[str, str, int]]] = {"step": set(), "score": set(), "run": set()}
        self.steps = 0
        self.scoring = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event not in {"call", "return"} or "/src/kdtool" not in code.co_filename:
            return
        if threading.current_thread().daemon:
            return
        if code.co_name == STEP and event == "call":
            self.steps += 1
        if code.co_name == SCORE and "perplexity" in code.co_filename:
            names = {subject.name for subject in frame.f_locals["subjects"]}
            self.scoring = event == "call" and names == {"student-seed0"}
        called = code.co_filename, code.co_qualname, code.co_firstlineno
        self.calls["run"].add(called)
        if self.steps == 3:
            self.calls["step"].add(called)
        if self.scoring:
            self.calls["score"].add(called)


@contextmanager
def _traced() -> Iterator[_Tracer]:
    tracer = _Tracer()
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    try:
        yield tracer
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def trace(folder: Path) -> dict[str, Traced]:
    """Run four steps on a tiny model in `folder` and return what a step, a score and the run called."""
    import kdtool

    spec = importlib.util.spec_from_file_location("tiny_teacher", ROOT / "tests" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    teacher = {"use": "causal-lm", "model": str(tiny.make_teacher(folder / "teacher", seed=0)), "dtype": "float32"}
    with _traced() as tracer:
        kdtool.run({**RECIPE, "teacher": teacher}, out=folder / "runs", store=folder / "store")
    return {
        name: Traced(
            frozenset(file for file, _, _ in calls),
            frozenset(Path(file.partition("/src/")[2]).parts[0] for file, _, _ in calls),
            frozenset(calls),
        )
        for name, calls in tracer.calls.items()
    }


def main() -> int:
    """Print the table, and with --files the files."""
    with tempfile.TemporaryDirectory() as folder:
        found = trace(Path(folder))
    print(f"{'':8}{'files':>8}{'packages':>10}{'functions':>11}")
    for name, traced in found.items():
        print(f"{name:8}{len(traced.files):8}{len(traced.packages):10}{len(traced.functions):11}")
        if "--files" in sys.argv:
            print(*sorted(file.partition("/src/")[2] for file in traced.files), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
