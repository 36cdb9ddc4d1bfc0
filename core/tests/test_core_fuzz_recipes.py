"""Mutated recipes: never a traceback, never a hang, and what is accepted gets past assembly.

Some hundred mutants here; KDTOOL_FUZZ=full makes it 10,000. Every one goes through the command line's own code (or the
Python API for mappings); accepted ones are planned and, where they are small, run to the end.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kdtool
import pytest
from fuzzing import FULL, QUICK, at_most, say
from hypothesis import given, settings
from hypothesis import strategies as st
from kdtool._assembly.assemble import assemble
from kdtool._assembly.json_schema import recipe_schema
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import read_document
from kdtool._run.context import Context
from kdtool._run.graph import Node
from kdtool._store.artefacts import Artefact
from recipe_mutants import Mutant, mutants
from toy_recipe import Recipe

MUTANTS = 10_000 if FULL else 300
REAL = sorted(Path(__file__).parents[2].glob("recipes/*.yaml"))
LINES = "".join(f"line {number} of a text with many words\n" for number in range(12))
OUTCOMES: Counter[str] = Counter()


def _two_phases(recipe: Recipe) -> Recipe:
    losses = recipe["train"]["losses"]
    count, imitate = losses["count"], losses["imitate"]
    ramp = {"start": 1.0, "end": 0.5, "begin": 0.1, "until": 0.9, "shape": "cosine"}
    return {
        **{key: value for key, value in recipe.items() if key not in {"corpus", "teacher", "control", "train"}},
        "seeds": [3],
        "corpora": {"one": recipe["corpus"], "two": {**recipe["corpus"], "documents": 7}},
        "teachers": {"a": recipe["teacher"], "b": recipe["teacher"]},
        "train": {
            "first": {"losses": {"imitate": {**imitate, "teacher": "b", "weight": ramp}}, "steps": 2},
            "second": {"losses": {"count": count}, "steps": 1, "trainer": {"factor": 2.0}},
        },
        "control": {"match": "tokens", "losses": {"plain": count}},
    }


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(recipe_schema())


@pytest.fixture
def bases(recipe: Recipe) -> tuple[Any, ...]:
    small = {key: value for key, value in recipe.items() if key not in {"control", "signals", "exporters", "trackers"}}
    lines = {"use": recipe["corpus"]["use"].replace("Corpus", "Lines"), "file": "lines.txt"}
    return (recipe, {**small, "seeds": [0]}, {**small, "seeds": [0], "corpus": lines}, _two_phases(recipe))


@pytest.fixture
def stage_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of stages, in the order in which they were made."""
    found: list[str] = []
    make = Context.make

    def note(context: Context, node: Node) -> Artefact:
        artefact = make(context, node)
        found.append(node.name)
        return artefact

    monkeypatch.setattr(Context, "make", note)
    return found


def _from_mapping(mutant: Mutant) -> bool:
    try:
        with at_most(), contextlib.redirect_stderr(io.StringIO()):
            kdtool.check(mutant.data, mutant.settings)
    except kdtool.KdtoolError as error:
        assert str(error)
        assert not isinstance(error, kdtool.RecipeError) or all(problem.message for problem in error.problems)
        return False
    with at_most(), contextlib.redirect_stderr(io.StringIO()):
        kdtool.plan(mutant.data, mutant.settings)
    return True


def _from_files(mutant: Mutant) -> bool:
    changes = [part for key, value in mutant.settings.items() for part in ("--set", f"{key}={value}")]
    code, said = say("check", "recipe.yaml", *changes)
    assert code in {0, 1, 2}, said
    if code == 0:
        planned, why = say("run", "recipe.yaml", "--plan", *changes)
        assert planned == 0, why
    return code == 0


def _numbers(data: Any) -> list[float]:
    if isinstance(data, dict | list):
        return [each for value in (data.values() if isinstance(data, dict) else data) for each in _numbers(value)]
    return [data] if isinstance(data, int | float) else []


def _run(mutant: Mutant, stage_names: list[str]) -> None:
    """An accepted recipe ends, or fails once its untrained student is there: its preparation refuses nothing any more."""
    recipe: Any = mutant.data if mutant.files == {} else Path("recipe.yaml")
    if any(abs(number) >= 100 for number in _numbers(dict(load_recipe(recipe, mutant.settings).data))):
        OUTCOMES["accepted, too large to run"] += 1
        return
    try:
        with at_most(), contextlib.redirect_stderr(io.StringIO()):
            kdtool.run(recipe, mutant.settings)
        OUTCOMES["accepted and run"] += 1
    except kdtool.KdtoolError as error:
        assert any(name.startswith("students") for name in stage_names), error
        OUTCOMES[f"accepted and stopped: {str(error)[:60]}"] += 1


@pytest.mark.slow
@settings(QUICK, max_examples=MUTANTS * 4 // 5)
@given(data=st.data())
def test_a_mutated_recipe_runs_or_is_explained(
    bases: tuple[Any, ...], stage_names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    mutant = data.draw(mutants(bases))
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (work / "lines.txt").write_text(data.draw(st.sampled_from(["", "one line", LINES, LINES, LINES])), encoding="utf-8")
    mutant.write(work)
    stage_names.clear()
    if _from_files(mutant) if mutant.files else _from_mapping(mutant):
        _run(mutant, stage_names)
    else:
        OUTCOMES["refused"] += 1


@pytest.mark.skipif(not REAL, reason="the recipes lie in the repository")
@settings(QUICK, max_examples=MUTANTS // 5)
@given(data=st.data())
def test_a_mutated_recipe_of_the_repository_is_assembled_or_explained(tmp_path: Path, data: st.DataObject) -> None:
    bases = tuple(read_document(path.read_text(encoding="utf-8"), path.name, path.parent).plain() for path in REAL)
    mutant = data.draw(mutants(bases))
    mutant.write(tmp_path)
    path = tmp_path / "recipe.yaml"
    try:
        with at_most():
            assemble(load_recipe(path if mutant.files else mutant.data, mutant.settings), lambda _: None)
    except kdtool.KdtoolError as error:
        assert str(error)
    else:
        given = read_document(path.read_text(encoding="utf-8"), "", tmp_path).plain() if mutant.files else mutant.data
        if not mutant.settings and find_spec("jsonschema"):  # of the test extra
            assert [f"{error.json_path}: {error.message}" for error in _validator().iter_errors(given)] == []


def test_mutants_are_of_every_sort() -> None:
    """Refused and accepted ones are both there, in numbers that make the test above worth something."""
    if sum(OUTCOMES.values()) < MUTANTS / 2:
        pytest.skip("the mutants were not run")
    print(OUTCOMES.most_common(20))
    assert OUTCOMES["refused"] > MUTANTS / 10
    assert OUTCOMES["accepted and run"] > MUTANTS / 50
