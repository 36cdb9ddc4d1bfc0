"""Plugins say which contract they were written for; one that this core does not give is refused before it is imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from kdtool._plugins.distributions import CONTRACT, CONTRACTS, contracts_of, refusal
from kdtool._plugins.project_packages import install_command
from kdtool._plugins.registry import load


class Stated(Distribution):
    """A distribution that requires what a test says."""

    def __init__(self, *requirements: str) -> None:
        lines = "".join(f"Requires-Dist: {requirement}\n" for requirement in requirements)
        self.text = f"Metadata-Version: 2.1\nName: kdtool-loss-x\nVersion: 1.5\n{lines}\n"

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("requirements", "numbers"),
    [
        ((), set()),
        (("kdtool>=0.1", "torch"), set()),
        (("kdtool[contract-1]>=0.1",), {1}),
        (("KDTool [contract_12, other] ; python_version > '3'",), {12}),
        (("kdtool[contract-1,contract-2]", "kdtool-rows[contract-9]"), {1, 2}),
        (("kdtool[contract-x]", "kdtool-contract[contract-3]"), set()),
    ],
)
def test_the_number_is_read_from_what_a_distribution_requires(requirements: tuple[str, ...], numbers: set[int]) -> None:
    assert contracts_of(Stated(*requirements)) == numbers


def test_a_refusal_names_distribution_numbers_and_remedy() -> None:
    assert refusal(Stated(f"kdtool[contract-{CONTRACT}]")) == refusal(Stated("kdtool")) == ""
    newer = refusal(Stated("kdtool[contract-99]"))
    assert newer == (
        f"kdtool-loss-x 1.5 was written for contract 99, but this kdtool gives contract {CONTRACT}; "
        f"get a newer kdtool: {install_command('kdtool', '--upgrade')}"
    )
    older = refusal(Stated("kdtool[contract-0]"))
    assert older.endswith(f"get a newer kdtool-loss-x: {install_command('kdtool-loss-x', '--upgrade')}")


def test_what_the_core_gives_is_what_its_distribution_offers() -> None:
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    extras = tomllib.loads(path.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {name: needs for name, needs in extras.items() if name.startswith("contract-")} == {
        f"contract-{number}": [] for number in CONTRACTS
    }
    assert max(CONTRACTS) == CONTRACT


def _install(folder: Path, requirement: str) -> None:
    info = folder / "x_future-1.0.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: x-future\nVersion: 1.0\nSummary: of use\nRequires-Dist: {requirement}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text("[kdtool.losses]\nx-future = x_future:X\n", encoding="utf-8")
    (info / "RECORD").write_text("x_future.py,,\n", encoding="utf-8")
    (folder / "x_future.py").write_text("raise SystemExit('imported')", encoding="utf-8")


@pytest.mark.parametrize("use", ["x-future", "x_future:X"])
def test_an_unsupported_plugin_is_refused_before_it_is_imported(use: str, tmp_path: Path) -> None:
    _install(tmp_path, "kdtool[contract-7]")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom pathlib import Path\n"
        "import kdtool; from kdtool._plugins.registry import load\n"
        f"try:\n    load('loss', {use!r}, Path(), print)\nexcept kdtool.PluginError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert f"loss '{use}' cannot be used: x-future 1.0 was written for contract 7" in done.stdout


def test_the_list_says_what_cannot_be_used(tmp_path: Path) -> None:
    _install(tmp_path, "kdtool[contract-7]")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from kdtool._cli import main; main()"
    command = [sys.executable, "-c", code, "plugins", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    (line,) = [line for line in listed.stdout.splitlines() if "x-future" in line]
    assert "was written for contract 7" in line
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, encoding="utf-8")
    assert '"contract": "7"' in as_json.stdout


def test_local_code_states_no_number(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import kdtool\nclass X(kdtool.TokenLoss):\n    'A loss.'\n    def kdtool_token_loss(self, chunk): ...\n",
        encoding="utf-8",
    )
    assert load("loss", "./own.py:X", tmp_path, lambda _: None).distribution == ""
