"""Mutated plugin packages, as installed: never a traceback, never a hang, always named, and nobody else suffers.

Some dozen packages here; KDTOOL_FUZZ=full makes it 1,000.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from fuzzing import FULL, QUICK, say
from hypothesis import given, settings
from hypothesis import strategies as st
from package_mutants import Package, packages
from plugin_site import forget_installed, install
from toy_recipe import Recipe

PACKAGES = 1_000 if FULL else 60
NUMBERS = itertools.count()
OUTCOMES: Counter[str] = Counter()


def _recipe(package: Package, recipe: Recipe) -> Recipe:
    """The toy's recipe with the package's component in it."""
    small = {key: value for key, value in recipe.items() if key not in {"control", "signals", "exporters"}}
    entry = {"use": package.name}
    if package.kind == "loss":
        return {**small, "seeds": [0], "train": {"losses": {"own": entry, **recipe["train"]["losses"]}, "steps": 2}}
    if package.kind in {"teacher", "corpus"}:
        return {**small, "seeds": [0], package.kind: entry}
    more = {"required": True} if package.kind == "tracker" else {}
    return {**small, "seeds": [0], f"{package.kind}s": {"own": {**entry, **more}}}


def _try(package: Package, recipe: Recipe) -> str:
    """Do with the package what users do, and return how it ended."""
    assert say("--help")[0] == 0
    assert say("plugins", "list")[0] == 0
    code, said = say("plugins", "show", package.name)
    assert code in {0, 1, 2}, said
    Path("recipe.yaml").write_text(json.dumps(_recipe(package, recipe)), encoding="utf-8")
    checked, why = say("check", "recipe.yaml")
    assert checked in {0, 1, 2, 3, 9}, why
    assert checked == 0 or package.name in why or package.name.replace("-", "_") in why, why
    if checked:
        return "refused"
    code, said = say("run", "recipe.yaml")
    assert code == 0 or package.name in said or package.name.replace("-", "_") in said, said
    assert "problem in the recipe" not in said
    return "ran" if code == 0 else "failed and named"


@settings(QUICK, max_examples=PACKAGES)
@given(data=st.data())
def test_a_mutated_package_works_or_is_named(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    package = data.draw(packages(f"fuzz-{next(NUMBERS)}"))
    work = tmp_path / "work"
    shutil.rmtree(work, ignore_errors=True)
    site = work / "site"
    module = package.name.replace("-", "_")
    with monkeypatch.context() as patch:
        work.mkdir()
        patch.chdir(work)
        patch.syspath_prepend(site)
        install(site, package.name, package.entry_points, {f"{module}.py": package.source}, package.metadata)
        try:
            OUTCOMES[_try(package, recipe)] += 1
        finally:
            sys.modules.pop(module, None)
    forget_installed()


def test_packages_are_of_every_sort() -> None:
    """Packages that work, fail late and are refused are all there, in numbers that make the test above worth something."""
    if sum(OUTCOMES.values()) < PACKAGES / 2:
        pytest.skip("the packages were not tried")
    print(OUTCOMES)
    assert OUTCOMES["refused"] > PACKAGES / 10
    assert OUTCOMES["ran"] > PACKAGES / 20
