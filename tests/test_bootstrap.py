"""`bootstrap.py`: what it installs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

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
    monkeypatch.setattr(bootstrap, "_settings_for_time", lambda _: [])
    return calls


def _folders(call: tuple[str, ...]) -> set[str]:
    return {Path(what).relative_to(ROOT).as_posix() for what in call if not what.startswith("-")}


def test_quickstart_installs_no_package_that_it_does_not_need(
    bootstrap: ModuleType, installed: list[tuple[str, ...]]
) -> None:
    assert bootstrap.main(["quickstart"]) == 0
    folders = _folders(installed[-1])
    needed = {"core", "plugins/essentials", "plugins/transformers"}
    assert needed <= folders
    assert not folders & {"testing", "plugins/data", "plugins/cloud"}


WORDS = [
    "",
    "--help",
    "help",
    "quickstart --help",
    "everything -h",
    "quikstart",
    "--unlocked",
    "quickstart",
    "everything",
]


@pytest.mark.parametrize("words", WORDS)
def test_help_installs_nothing_and_an_installation_ends_with_a_line_to_paste(
    words: str, bootstrap: ModuleType, installed: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, installs = words in {"quikstart", "--unlocked"}, words in {"quickstart", "everything"}
    assert bootstrap.main(words.split()) == (2 if wrong else 0)
    expected = "; did you mean '" if wrong else "paste:\n\n    source " if installs else "Set up kdtool"
    assert expected in capsys.readouterr().out
    assert bool(installed) == installs


def test_everything_is_installed_on_demand_beside_it(bootstrap: ModuleType, installed: list[tuple[str, ...]]) -> None:
    assert bootstrap.main(["quickstart"]) == 0
    assert bootstrap.main(["everything"]) == 0
    added = _folders(installed[-1])
    needed = {path.relative_to(ROOT).as_posix() for path in bootstrap.needed_by("kdtool[quickstart]")}
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


def _checked(seconds: float, documents: int = 8) -> dict[str, Any]:
    """Return the findings of `kdtool check` about the quickstart, on a machine where training takes `seconds`."""
    configs = {
        "perplexity": {"limit": 32},
        "line-completion": {"limit": documents, "places": 3},
        "efficiency": {"turns": 3},
    }
    return {
        "arms": ["student", "control"],
        "components": [{"use": use, "config": config} for use, config in configs.items()],
        "forecast": {"steps": 440, "seconds": seconds, "speed": "by this test"},
    }


@pytest.mark.parametrize(
    ("seconds", "documents", "steps", "words"),
    [
        (220, 8, None, "about 5 min with the whole recipe"),
        (440, 8, 200, "about 9 min with train.steps=200"),
        (440, 320, None, "about 9 min"),
        (1600, 8, None, "about 9 min"),
        (2200, 32, None, "about 9 min"),
        (22000, 8, 20, "about 89 min"),
    ],
)
def test_the_quickstart_trains_and_measures_as_much_as_fits_into_ten_minutes(
    bootstrap: ModuleType, seconds: float, documents: int, steps: int | None, words: str
) -> None:
    settings, reason = bootstrap.choose_settings(_checked(seconds, documents))
    assert words in reason
    chosen = {key: int(value) for key, value in (setting.split("=") for setting in settings)}
    assert steps is None or chosen["train.steps"] == steps
    if "whole recipe" in words:
        assert not chosen
    elif documents > 8 or seconds == 1600:
        assert chosen["train.steps"] * seconds / 220 >= 200
        assert 8 <= chosen["evaluators.perplexity.limit"] <= 32
        assert 4 <= chosen["evaluators.line-completion.limit"] <= documents


class _Kdtool:
    """Stands in for the commands: `check` answers as on a machine of some speed; each call is noted."""

    def __init__(self) -> None:
        self.found, self.calls = _checked(440), list[tuple[str, ...]]()

    def run(self, command: list[str | Path], **_: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(tuple(map(str, command[1:])))
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(self.found))

    def call(self, command: list[str | Path], **_: object) -> int:
        self.calls.append(tuple(map(str, command[1:])))
        return 0


def test_steps_are_chosen_once_and_those_of_the_user_come_first(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = _Kdtool()
    bootstrap.ENVIRONMENT.mkdir()
    monkeypatch.setattr(bootstrap, "_install_packages", lambda *_, **__: None)
    monkeypatch.setattr(bootstrap.subprocess, "run", commands.run)
    monkeypatch.setattr(bootstrap.subprocess, "call", commands.call)
    recipe = str(bootstrap.RECIPE)
    assert bootstrap.main(["quickstart", "--set", "train.steps=300"]) == 0
    assert commands.calls == [("run", recipe, "--set", "train.steps=300")]
    commands.calls.clear()
    assert bootstrap.main(["quickstart", "--offline"]) == 0
    assert commands.calls == [("check", recipe, "--json"), ("run", recipe, "--set", "train.steps=200", "--offline")]
    commands.calls.clear()
    commands.found = _checked(2200)  # busier than at the first call: the run has to resume, not to start over
    assert bootstrap.main(["quickstart"]) == 0
    assert commands.calls == [("run", recipe, "--set", "train.steps=200")]
