"""Subjects, settings and ways to evolve a task, and names of templates and of their variables.

They are sampled for each request here, because some services cannot sample at random.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

__all__ = ["DIFFICULTY_MEANS", "NAMES", "REPAIR", "TEST_FORMS", "VARIABLES", "ideas"]

VARIABLES = frozenset(
    {
        "difficulty", "difficulty_means", "evolution", "examples", "fence", "language", "language_name", "number", "seed",
        "setting", "style", "task", "test_form", "tested", "topic",
    }
)  # fmt: skip
"""Variables that every template may use; the template of repairs may also use `error`."""
REPAIR = "_repair"
"""Template of the turn that asks for a repair."""
NAMES = {"python": "Python", "javascript": "JavaScript", "java": "Java", "cpp": "C++", "go": "Go", "rust": "Rust"}
DIFFICULTY_MEANS = {
    "easy": "one idea, some 5 to 15 lines of code.",
    "medium": "two or three ideas together with special cases, some 15 to 40 lines of code.",
    "hard": "an algorithm or a design that takes thought, with limits on time or memory, some 30 to 80 lines of code.",
}
TEST_FORMS = {
    "python": "assert statements at the top level that call the answer's code.",
    "javascript": "console.assert statements at the top level that call the answer's code.",
    "java": "a class Main with a method main that throws an AssertionError; the answer's classes are not public.",
    "cpp": "a function main with assert, and what it includes.",
    "go": "functions of the package testing; the answer begins with its package clause and its imports.",
    "rust": "functions with #[test], which call the answer's code of the same file.",
}
"""Forms of tests that the sandbox can append to the answer's code."""


@cache
def ideas(kind: Literal["topics", "settings", "evolutions"]) -> tuple[str, ...]:
    """Return the subjects, the settings or the ways to rewrite a task."""
    file = Path(__file__).with_name("templates") / f"{kind}.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())
