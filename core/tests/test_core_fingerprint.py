"""Other code makes anew what depends on it, wherever the code lies and under whatever version."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import kdtool
import pytest
import toy
from kdtool._run.sources import _read_imports, _requirements_of, code_of
from plugin_site import forget_installed, forget_modules, install
from toy_recipe import Recipe

TRAINED = {"phases/student-seed0", "exports/json", "scores/nats-student"}
CODE = """
import toy


class A(toy.Trainer):
    "Counts."


class B(toy.Trainer):
    "Counts otherwise."

    def kdtool_train(self, run, phase, student):
        return super().kdtool_train(run, phase, student)
"""


@pytest.fixture
def recipe(recipe: Recipe) -> Recipe:
    return {**recipe, "seeds": [0], "control": False}


def _forget(site: Path) -> None:
    """Have the next call import as a new process would."""
    forget_modules(site)
    for cached in (code_of, _read_imports, _requirements_of):
        cached.cache_clear()
    forget_installed()


def _to_run(recipe: Recipe, use: str) -> dict[str, tuple[str, ...]]:
    """Return the stages that would run with a trainer, with the reasons."""
    return {stage.name: stage.why for stage in kdtool.plan(recipe, {"trainer.use": use}) if stage.action != "reuse"}


def _begins(stages: Iterable[str]) -> set[str]:
    """Return the first two parts of the stages' names."""
    return {"-".join(name.split("-")[:2]) for name in stages}


def _check_edits(recipe: Recipe, site: Path, use: str, expected: dict[str, bool]) -> None:
    """Run, then edit one file after the other: the trainer trains again if its code is concerned."""
    _forget(site)
    kdtool.run(recipe, {"trainer.use": use})
    for name, trains in expected.items():
        text = (site / name).read_text(encoding="utf-8") if (site / name).exists() else ""
        _write(site / name, f"{text}y = 2\n")
        _forget(site)
        assert _begins(_to_run(recipe, use)) == (TRAINED if trains else set()), name
        _write(site / name, text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_another_class_of_the_same_file_trains_anew(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(CODE, encoding="utf-8")
    kdtool.run(recipe, {"trainer.use": "./own.py:A"})
    assert _to_run(recipe, "./own.py:A") == {}
    found = _to_run(recipe, "./own.py:B")
    assert _begins(found) == TRAINED
    assert found["phases/student-seed0-train"] == ("trainer A → B",)


POINT = "[kdtool.trainers]\ncounting = counting:A\n"


@pytest.mark.parametrize(
    ("use", "file"),
    [
        pytest.param("counting:A", "counting.py", id="a module"),
        pytest.param("space.counting:A", "space/counting.py", id="a module of a folder without __init__"),
        pytest.param("counting", "counting/__init__.py", id="what is installed, as the same version"),
    ],
)
def test_edited_code_trains_anew_and_nothing_else_is_made(recipe: Recipe, site: Path, use: str, file: str) -> None:
    if use == "counting":
        install(site, "counting", POINT, {})
    _write(site / file, CODE)
    _check_edits(recipe, site, use, {"beside.py": False, file: True})


def test_a_class_without_a_file_is_another_one_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (type("Cell", (toy.Trainer,), {"__module__": "__main__"}) for _ in range(2))
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert code_of(first, "") == code_of(first, "") != code_of(second, "")


REQUIRES: dict[str, tuple[str, ...]] = {
    "counting": ("kdtool-top>=0.1", "not a requirement!"),
    "kdtool-top": (
        "kdtool",
        "between",
        'kdtool-extra; extra == "more"',
        'kdtool-absent; extra == "more"',
        'kdtool-elsewhere; sys_platform == "nowhere"',
        "kdtool-top",
    ),
    "between": ('kdtool_base; python_version > "3"', "acme-common", 'kdtool-elsewhere; extra == "all"'),
    "acme-common": ("kdtool",),
    "kdtool-base": ("kdtool", "kdtool-top"),
    "kdtool-extra": ("kdtool>=0.1,<0.2",),
    "kdtool-elsewhere": (),
}
"""Distributions with what they require: in a circle, by extras and markers, and by way of one from elsewhere."""


def _required_by(site: Path, name: str, text: str) -> None:
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nProvides-Extra: more\nProvides-Extra: all\n"
    about += "".join(f"Requires-Dist: {one}\n" for one in REQUIRES[name])
    points = POINT if name == "counting" else ""
    install(site, name, points, {f"{name.replace('-', '_')}/__init__.py": text}, metadata=about)


def test_edited_code_of_a_library_trains_anew_if_it_is_read_imports_however_far_away(
    recipe: Recipe, site: Path
) -> None:
    code = {
        "counting": f"def later():\n    from kdtool_top.part import x\n{CODE}",
        "kdtool-top": "import acme_common\nfrom kdtool_top.listed import y\n",
        "kdtool-base": "import kdtool_elsewhere\n",
    }
    for name in REQUIRES:
        _required_by(site, name, code.get(name, "x = 1\n"))
    _write(site / "kdtool_top" / "part.py", "from kdtool_base import x\n")
    _write(site / "kdtool_top" / "other.py", "x = 1\n")
    _write(site / "kdtool_top" / "listed.py", "def y():\n    import kdtool_top.later\n")
    _write(site / "kdtool_top" / "later.py", "x = 1\n")
    expected = {
        "kdtool_top/other.py": False,  # nothing imports it
        "kdtool_top/later.py": False,  # only a function that the package lists imports it, and nothing uses that
        "kdtool_top/listed.py": True,  # imported with the package
        "kdtool_elsewhere/__init__.py": False,  # imported, but it does not require kdtool
        "kdtool_extra/__init__.py": False,
        "kdtool_top/part.py": True,
        "kdtool_base/__init__.py": True,
        "acme_common/__init__.py": True,
    }
    _check_edits(recipe, site, "counting", expected)


def test_a_file_that_computes_what_it_imports_counts_with_its_whole_folder(recipe: Recipe, site: Path) -> None:
    late = 'import importlib\nfor each in ("late",):\n    importlib.import_module(f"counting.{each}")\n'
    install(site, "counting", POINT, {"counting/__init__.py": late + CODE, "counting/late.py": "x = 1\n"})
    _check_edits(recipe, site, "counting", {"counting/late.py": True})


def test_of_a_package_that_loads_its_names_late_only_modules_of_used_names_count(recipe: Recipe, site: Path) -> None:
    lazy = "from importlib import import_module\ndef __getattr__(name):\n    return import_module(__name__ + name)\n"
    _required_by(site, "kdtool-top", lazy)
    _write(site / "kdtool_top" / "__init__.pyi", "from kdtool_top._one import one\nfrom kdtool_top._two import two\n")
    for name in ("one", "two"):
        _write(site / "kdtool_top" / f"_{name}.py", f"{name} = 1\n")
    _required_by(site, "counting", f"def later():\n    from kdtool_top import one\n{CODE}")
    _check_edits(recipe, site, "counting", {"kdtool_top/_two.py": False, "kdtool_top/_one.py": True})
