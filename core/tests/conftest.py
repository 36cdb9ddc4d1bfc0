"""Makes `plugin_site` importable, and gives every test a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kdtool._plugins.registry import GROUPS

sys.path.insert(0, str(Path(__file__).parent))

from plugin_site import forget_installed, forget_modules, install
from toy_recipe import toy_recipe


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A whole recipe whose plugins are in a local file."""
    return toy_recipe()


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own and finds no user's store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path`, to install distributions in."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(folder)
    yield folder
    forget_modules(folder)
    forget_installed()


@pytest.fixture(scope="session")
def faulty_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `sys.path` with the distribution faulty-plugins 1.0: see `faulty.py`."""
    site = tmp_path_factory.mktemp("site")
    kinds = set(GROUPS) - {"command", "loss", "evaluator"}
    classes = {"exporter": "Export", "tracker": "Events", "reporter": "Report"}
    named = [(kind, kind, classes.get(kind, kind.capitalize())) for kind in sorted(kinds)]
    named += [("loss", "count", "Count"), ("loss", "imitate", "Imitate"), ("evaluator", "nats", "Nats")]
    lines = [f"[{GROUPS[kind]}]\nfaulty-{name} = faulty_plugins:{cls}\n" for kind, name, cls in named]
    here = Path(__file__).parent
    files = {"__init__.py": "faulty.py", "toy.py": "toy.py"}
    sources = {f"faulty_plugins/{to}": (here / name).read_text(encoding="utf-8") for to, name in files.items()}
    install(site, "faulty-plugins", "\n".join(lines), sources)
    return site


@pytest.fixture
def faulty_installed(faulty_site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution faulty-plugins is there, and nothing fails yet."""
    monkeypatch.syspath_prepend(faulty_site)
    monkeypatch.setenv("TOY_FAULT", "")
    forget_installed()
    yield
    monkeypatch.undo()
    forget_installed()
