"""The command that messages give for a package: never a name of the project that nobody has registered yet."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from kdtool._plugins import distributions
from kdtool._plugins.distributions import install_command

UNKNOWN = "kdtool-absent-x"


def _install(path: Path, name: str, origin: Path | None) -> None:
    """Leave the metadata that pip leaves of a package, installed from a folder or else from an index."""
    info = path / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n", encoding="utf-8")
    if origin:
        (info / "direct_url.json").write_text(json.dumps({"url": origin.as_uri(), "dir_info": {}}), encoding="utf-8")


def _project(folder: Path, name: str, *requirements: str) -> None:
    folder.mkdir(parents=True)
    text = f'[project]\nname = "{name}"\ndependencies = {json.dumps(requirements)}\n'
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages that comes before the real ones."""
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return tmp_path / "packages"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    _project(folder / "core", "kdtool")
    _project(folder / "plugins" / "first", "kdtool-first-x", "torch>=2", "kdtool>=0.1", "kdtool-second-x>=0.1")
    _project(folder / "plugins" / "second", "kdtool-second-x", "kdtool>=0.1", "kdtool-third-x>=0.1")
    _project(folder / "plugins" / "third", "kdtool-third-x")
    (folder / "bootstrap.py").touch()
    return folder


def test_name_of_the_project_is_not_given_to_pip_before_it_is_published(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(packages, "kdtool", None)
    for name in ("kdtool", UNKNOWN, f"{UNKNOWN}>=0.1"):
        assert install_command(name, "--upgrade") == "python bootstrap.py everything (in a clone of kdtool)"
    monkeypatch.setattr(distributions, "PUBLISHED", True)
    assert install_command(UNKNOWN, "--upgrade") == f"pip install --upgrade {UNKNOWN}"


def test_from_the_clone_come_the_package_and_what_it_needs_that_is_not_installed(
    packages: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(packages, "kdtool", clone / "core")
    _install(packages, "kdtool-third-x", clone / "plugins" / "third")
    second = clone / "plugins" / "second"
    monkeypatch.chdir(clone.parent)
    assert install_command("kdtool-first-x") == "pip install ./clone/plugins/first ./clone/plugins/second"
    monkeypatch.chdir(clone / "plugins" / "first")
    assert install_command("kdtool-first-x") == f"pip install ./. {shlex.quote(str(second))}"
    monkeypatch.chdir(clone)
    assert install_command("kdtool-first-x") == "pip install ./plugins/first ./plugins/second"
    assert install_command("kdtool_first.x", "--no-deps") == "pip install --no-deps ./plugins/first ./plugins/second"
    (clone / "bootstrap.py").unlink()
    assert "pip" not in install_command("kdtool-first-x")


def test_an_extra_of_an_installed_package_brings_packages_of_the_project_from_the_clone(
    packages: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their names on an index could be anybody's."""
    file = clone / "plugins" / "third" / "pyproject.toml"
    extra = '[project.optional-dependencies]\nmore = ["kdtool-second-x>=0.1", "torch"]\n'
    file.write_text(file.read_text(encoding="utf-8") + extra, encoding="utf-8")
    _install(packages, "kdtool", clone / "core")
    _install(packages, "kdtool-third-x", clone / "plugins" / "third")
    known = {"loss": {"third": distributions.Known("kdtool-third-x[more]", "")}}
    monkeypatch.setattr(distributions, "known_components", lambda: known)
    monkeypatch.chdir(clone)
    command = "pip install './plugins/third[more]' ./plugins/second"
    assert install_command("kdtool-third-x[more]") == command
    assert install_command("kdtool") == "pip install ./core"
