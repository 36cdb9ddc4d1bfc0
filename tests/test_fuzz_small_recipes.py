"""Mutants of the repository's small recipes: `check` accepts only what survives everything that `run` does before it trains.

The teachers are tiny, so that a mutant costs a fraction of a second. A few dozen mutants here; KDTOOL_FUZZ=full makes it
1,000.
"""

from __future__ import annotations

import contextlib
import copy
import io
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import read_document
from kdtool._run.context import Context
from kdtool._run.graph import Node
from test_recipes import FULL, RECIPES, SMALL, SYSTEMS, tiny

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "core" / "tests"))

import fuzzing
from recipe_mutants import Mutant, mutants

MUTANTS = 1_000 if fuzzing.FULL else 40
SECONDS = 30
FEW_FILES = {"train_files": 6, "validation_files": 2, "test_files": 4}
QUICKSTART = {
    "student": {"use": "pruned", "layers": 3},
    "rows": {"use": "packed", "length": 64, "maximum_tokens": 1024},
    "train.steps": 2,
}
OUTCOMES: Counter[str] = Counter()


class Prepared(BaseException):
    """Raised where a run begins to train."""


@pytest.fixture(scope="module")
def bases(teacher_folder: Path) -> tuple[Any, ...]:
    """The small recipes and the quickstart as plain data, with a tiny teacher and little text."""
    quickstart = {**QUICKSTART, "teacher": {"use": "causal-lm", "model": str(teacher_folder), "dtype": "float32"}}
    shrunk = [(path, tiny(path.stem, teacher_folder)) for path in SMALL if path.stem in SYSTEMS]
    shrunk += [(path, quickstart) for path in FULL if path.stem == "quickstart"]
    return tuple(_with(_plain(path), changes) for path, changes in shrunk)


@pytest.fixture
def prepared_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs make text, students, rows and signals, measure nothing, and end at the first training."""
    make = Context.make

    def make_until_training(context: Context, node: Node) -> Any:
        if node.kind == "phases":
            raise Prepared
        return None if node.kind == "scores" else make(context, node)

    monkeypatch.setattr(Context, "make", make_until_training)


def _plain(path: Path) -> Any:
    return read_document(path.read_text(encoding="utf-8"), path.name, RECIPES).plain()


def _with(recipe: Any, changes: Mapping[str, Any]) -> Any:
    """Return a recipe with values at dotted keys, and fewer files of Python's library."""
    changed = copy.deepcopy(recipe)
    for key, value in changes.items():
        *above, last = key.split(".")
        section = changed
        for name in above:
            if not isinstance(section.setdefault(name, {}), dict):
                section[name] = {name: {} for name in section[name]}  # a list of names
            section = section[name]
        section[last] = value
    for section in _mappings(changed):
        if section.get("use") == "python-source":
            section.update(FEW_FILES)
    return changed


def _mappings(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from _mappings(value)
    if isinstance(data, dict):
        yield data


def _numbers(data: Any) -> set[float]:
    if isinstance(data, dict | list):
        return set().union(*map(_numbers, data.values() if isinstance(data, dict) else data))
    return {data} if isinstance(data, int | float) else set()


def outcome(mutant: Mutant, bases: tuple[Any, ...]) -> str:
    """Check a mutant and prepare its run; return what became of it. A run that is refused after its check fails the test."""
    recipe: Any = mutant.data if mutant.files == {} else Path("recipe.yaml")
    with fuzzing.at_most(SECONDS), contextlib.redirect_stderr(io.StringIO()):
        try:
            kdtool.check(recipe, mutant.settings, memory="1TB")
        except kdtool.KdtoolError as error:
            assert str(error)
            return "refused"
        large = _numbers(dict(load_recipe(recipe, mutant.settings).data)) - _numbers(list(bases))
        if any(abs(number) >= 100 for number in large):
            return "too large to run"
        with contextlib.suppress(Prepared):
            kdtool.run(recipe, mutant.settings, offline=True)
            return "nothing to train"
    return "prepared"


@pytest.mark.slow
@settings(fuzzing.QUICK, max_examples=MUTANTS)
@given(data=st.data())
def test_what_check_accepts_can_be_trained(
    bases: tuple[Any, ...], prepared_only: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    mutant = data.draw(mutants(bases))
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    monkeypatch.chdir(work)
    mutant.write(work)
    OUTCOMES[outcome(mutant, bases)] += 1


def test_mutants_are_of_every_sort() -> None:
    """Some are refused, some accepted, so that the test above is worth something."""
    if sum(OUTCOMES.values()) < MUTANTS / 2:
        pytest.skip("the mutants were not run")
    assert OUTCOMES["refused"] > MUTANTS / 10
    assert OUTCOMES["prepared"] > MUTANTS / 10
