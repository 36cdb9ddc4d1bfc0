"""`bootstrap.py`: what it installs."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module; its environment is a folder of the test, and nothing is installed."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path / ".venv")
    monkeypatch.setattr(module, "BENCHMARKS", tmp_path / ".venv-benchmarks")
    return module


@pytest.fixture
def installed(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The arguments of each call of pip."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(bootstrap, "_install", lambda _, *what: calls.append(tuple(map(str, what))))
    monkeypatch.setattr(bootstrap, "_make_environment", lambda environment: environment.mkdir(exist_ok=True))
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda *_, **__: 0)
    return calls


def _folders(call: tuple[str, ...]) -> set[str]:
    return {Path(what).relative_to(ROOT).as_posix() for what in call if not what.startswith("-")}


def test_quickstart_installs_no_package_that_it_does_not_need(
    bootstrap: ModuleType, installed: list[tuple[str, ...]]
) -> None:
    assert bootstrap.main(["quickstart"]) == 0
    folders = _folders(installed[-1])
    needed = {"core", "plugins/quickstart", "plugins/command-generate", "plugins/command-serve", "plugins/transformers"}
    assert needed <= folders
    assert not folders & {"testing", "plugins/all", "plugins/tracker-wandb", "plugins/tracker-trackio"}


def test_everything_is_installed_on_demand_beside_it(bootstrap: ModuleType, installed: list[tuple[str, ...]]) -> None:
    assert bootstrap.main(["quickstart"]) == 0
    assert bootstrap.main(["everything"]) == 0
    added = _folders(installed[-1])
    needed = {path.relative_to(ROOT).as_posix() for path in bootstrap.needed_by("kdtool-quickstart")}
    assert added == {path.relative_to(ROOT).as_posix() for path in bootstrap.packages()} - needed
    installed.clear()
    assert bootstrap.main(["quickstart"]) == 0
    assert not installed


def test_code_that_changed_is_installed_again(
    bootstrap: ModuleType, installed: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bootstrap.main(["quickstart"]) == 0
    before = bootstrap._state
    monkeypatch.setattr(bootstrap, "_state", lambda folder: before(folder) + "!" * (folder.name == "core"))
    assert bootstrap.main(["quickstart"]) == 0
    assert installed[-1] == ("--no-build-isolation", "--no-deps", "--force-reinstall", str(ROOT / "core"))


@pytest.mark.parametrize("job", ["quickstart", "everything", "benchmarks", "test"])
def test_files_of_third_parties_are_checked_against_the_lock(
    bootstrap: ModuleType, installed: list[tuple[str, ...]], job: str
) -> None:
    assert bootstrap.main([job]) == 0
    lock = ROOT / "locks" / f"{'tox' if job == 'test' else job}.txt"
    assert installed[0] == ("--no-deps", "--require-hashes", "--requirement", str(lock))
    by_version = [what for call in installed[1:] for what in call if not what.startswith(("-", str(ROOT)))]
    assert all(what.startswith("torch") for what in by_version)
    assert bool(by_version) == (job != "test")


def test_without_the_lock_constraints_hold_and_it_is_said(
    bootstrap: ModuleType, installed: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bootstrap.main(["everything", "--unlocked"]) == 0
    assert "without checking hashes" in capsys.readouterr().out
    assert installed[0][:2] == ("--constraint", str(ROOT / "constraints.txt"))
    assert {"torch>=2.8", "pydantic>=2.9", "hatchling>=1.26"} <= set(installed[0])
    assert not any(what.startswith("kdtool") or "locks" in what for call in installed for what in call)
