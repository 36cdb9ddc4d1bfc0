"""Other code makes anew what depends on it, wherever the code lies and under whatever version."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.graph import _deciding
from kdtool._run.sources import _read_imports, _requirements_of, code_of
from plugin_site import forget_installed, install

ONE_SEED = {"seeds": [0], "control": False}
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


@pytest.fixture(autouse=True)
def _importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield
    _forget()


def _forget() -> None:
    """Have the next call import as a new process would."""
    local = {"counting", "space", "kdtool_top", "kdtool_base", "kdtool_extra", "kdtool_elsewhere"}
    for name in [name for name in sys.modules if name.partition(".")[0] in local]:
        del sys.modules[name]
    for cached in (code_of, _read_imports, _requirements_of):
        cached.cache_clear()
    invalidate_caches()
    forget_installed()


def _to_run(recipe: dict[str, Any], use: str) -> dict[str, tuple[str, ...]]:
    """Return the stages that would run with a trainer, with the reasons."""
    return {stage.name: stage.why for stage in kdtool.plan(recipe, {"trainer.use": use}) if stage.action != "reuse"}


def _begins(stages: Iterable[str]) -> set[str]:
    """Return the first two parts of the stages' names."""
    return {"-".join(name.split("-")[:2]) for name in stages}


def test_another_class_of_the_same_file_trains_anew(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(CODE, encoding="utf-8")
    recipe |= ONE_SEED
    kdtool.run(recipe, {"trainer.use": "./own.py:A"})
    assert _to_run(recipe, "./own.py:A") == {}
    found = _to_run(recipe, "./own.py:B")
    assert _begins(found) == TRAINED
    assert found["phases/student-seed0-train"] == ("trainer A → B",)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _installed(site: Path, text: str) -> None:
    """Install version 1.0, or install it again."""
    for path in site.glob("*.dist-info/*"):
        path.unlink()
    for folder in site.glob("*.dist-info"):
        folder.rmdir()
    install(site, "counting", "[kdtool.trainers]\ncounting = counting:A\n", {"counting/__init__.py": text})


PLACES: dict[str, tuple[str, Callable[[Path, str], None]]] = {
    "a module": ("counting:A", lambda site, text: _write(site / "counting.py", text)),
    "a module of a folder without __init__": (
        "space.counting:A",
        lambda site, text: _write(site / "space" / "counting.py", text),
    ),
    "what is installed, as the same version": ("counting", _installed),
}


@pytest.mark.parametrize("place", PLACES)
def test_edited_code_trains_anew_and_nothing_else_is_made(recipe: dict[str, Any], tmp_path: Path, place: str) -> None:
    use, write = PLACES[place]
    site = tmp_path / "site"
    write(site, CODE)
    _forget()
    recipe |= ONE_SEED
    kdtool.run(recipe, {"trainer.use": use})
    _write(site / "beside.py", "x = 1\n")
    _forget()
    assert _to_run(recipe, use) == {}
    write(site, CODE.replace('"Counts."', '"Counts anew."'))
    _forget()
    assert _begins(_to_run(recipe, use)) == TRAINED


def test_a_class_without_a_file_is_another_one_in_every_process(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy

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
    module = name.replace("-", "_")
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nProvides-Extra: more\nProvides-Extra: all\n"
    about += "".join(f"Requires-Dist: {one}\n" for one in REQUIRES[name])
    points = "[kdtool.trainers]\ncounting = counting:A\n" if name == "counting" else ""
    install(site, name, points, {f"{module}/__init__.py": text}, metadata=about)


def test_edited_code_of_a_library_trains_anew_if_it_is_read_imports_however_far_away(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    site = tmp_path / "site"
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
    _forget()
    recipe |= ONE_SEED
    kdtool.run(recipe, {"trainer.use": "counting"})
    edited = {
        "kdtool_top/other.py": set(),  # nothing imports it
        "kdtool_top/later.py": set(),  # only a function that the package lists imports it, and nothing uses that
        "kdtool_top/listed.py": TRAINED,  # imported with the package
        "kdtool_elsewhere/__init__.py": set(),  # imported, but it does not require kdtool
        "kdtool_extra/__init__.py": set(),
        "kdtool_top/part.py": TRAINED,
        "kdtool_base/__init__.py": TRAINED,
        "acme_common/__init__.py": TRAINED,
    }
    for name, expected in edited.items():
        text = (site / name).read_text(encoding="utf-8")
        (site / name).write_text(f"{text}y = 2\n", encoding="utf-8")
        _forget()
        assert _begins(_to_run(recipe, "counting")) == expected, name
        (site / name).write_text(text, encoding="utf-8")


def test_a_file_that_computes_what_it_imports_counts_with_its_whole_folder(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    late = 'import importlib\nfor each in ("late",):\n    importlib.import_module(f"counting.{each}")\n'
    _installed(site, late + CODE)
    _write(site / "counting" / "late.py", "x = 1\n")
    _forget()
    recipe |= ONE_SEED
    kdtool.run(recipe, {"trainer.use": "counting"})
    _write(site / "counting" / "late.py", "x = 2\n")
    _forget()
    assert _begins(_to_run(recipe, "counting")) == TRAINED


class _Shown(kdtool.Config):
    counts: int = 1
    shows: int = kdtool.Field(default=1, json_schema_extra=kdtool.does_not_affect_results())


def test_settings_that_do_not_affect_results_are_left_out() -> None:
    assert _deciding(_Shown(counts=2, shows=3)) == {"counts": 2}


def test_of_a_package_that_loads_its_names_late_only_modules_of_used_names_count(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    lazy = "from importlib import import_module\ndef __getattr__(name):\n    return import_module(__name__ + name)\n"
    _required_by(site, "kdtool-top", lazy)
    _write(site / "kdtool_top" / "__init__.pyi", "from kdtool_top._one import one\nfrom kdtool_top._two import two\n")
    for name in ("one", "two"):
        _write(site / "kdtool_top" / f"_{name}.py", f"{name} = 1\n")
    _required_by(site, "counting", f"def later():\n    from kdtool_top import one\n{CODE}")
    _forget()
    recipe |= ONE_SEED
    kdtool.run(recipe, {"trainer.use": "counting"})
    for name, expected in (("two", set()), ("one", TRAINED)):
        _write(site / "kdtool_top" / f"_{name}.py", f"{name} = 2\n")
        _forget()
        assert _begins(_to_run(recipe, "counting")) == expected, name
