"""No module imports itself through others, in any package: imports within functions and for type checkers count, too."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp
import pytest
from packages import folders

PACKAGES = [package.parent.name for folder in folders() for package in sorted(folder.glob("src/*/__init__.py"))]


def _cycle(package: str) -> list[str]:
    """Return the modules of one cycle of imports, the first also as the last; empty where there is none."""
    graph = grimp.build_graph(package, cache_dir=None)
    try:
        TopologicalSorter(
            {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        ).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_packages_are_found() -> None:
    assert {"kdtool", "kdtool_torch"} <= set(PACKAGES)


def test_a_cycle_for_type_checkers_within_a_function_is_found(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("cyclic") / "kdtool_cyclic"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_one.py").write_text("def f() -> None:\n    from kdtool_cyclic import _two\n")
    (folder / "_two.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from kdtool_cyclic._one import f\n"
    )
    monkeypatch.syspath_prepend(folder.parent)
    assert set(_cycle("kdtool_cyclic")) == {"kdtool_cyclic._one", "kdtool_cyclic._two"}


def test_no_module_imports_itself_through_others() -> None:
    assert {package: cycle for package in PACKAGES if (cycle := _cycle(package))} == {}
