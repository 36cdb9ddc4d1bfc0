"""`kdtool new`: what it writes for each kind, and what it refuses. That it works is proved by tox (`scaffold`)."""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tomllib
from collections.abc import Callable
from contextlib import chdir
from functools import cache
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kdtool._cli import cli
from kdtool._plugins.registry import GROUPS
from kdtool_testing import CommandConformance
from kdtool_testing.new import KINDS, new

DESCRIBED = ("--description", "What 'mine' is for")
Made = Callable[..., tuple[Path, str]]


class TestNew(CommandConformance):
    command = new
    entry_point = "new"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def create(*words: str) -> str:
    return CliRunner().invoke(cli, ["new", *words], catch_exceptions=False).output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a function that creates a package once; it returns the folder and the output."""

    @cache
    def make(kind: str, name: str, *words: str) -> tuple[Path, str]:
        parent = tmp_path_factory.mktemp("made")
        with chdir(parent):
            told = create(kind, name, *words)
        return parent / f"kdtool-{kind}-{name}", told

    return make


def source(folder: Path) -> str:
    module = f"kdtool_{folder.name.removeprefix('kdtool-').replace('-', '_')}"
    return (folder / "src" / module / "__init__.py").read_text(encoding="utf-8")


def check_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder / "src")
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name != "py.typed"):
        content = path.read_text(encoding="utf-8")
        assert not re.search(r"\{\{ |\{%", content), path
        assert content.endswith("\n"), path
        assert not content.endswith("\n\n"), path
        if path.suffix == ".py":
            runpy.run_path(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_of_each_kind_is_whole(kind: str, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, told = made(kind, "my-own2")
    assert {path.name for path in folder.iterdir()} - {"student.py"} == {
        ".github", ".gitignore", "LICENSE", "README.md", "pyproject.toml", "recipe.yaml", "src", "tests", "tox.ini",
    }  # fmt: skip
    workflow = yaml.safe_load((folder / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    versions = [f"py{version.replace('.', '')}" for version in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]]
    assert f"env_list = {', '.join(versions)}\n" in (folder / "tox.ini").read_text(encoding="utf-8")
    settings = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    assert project["name"] == folder.name
    assert "kdtool>=0.1,<0.2" in project["dependencies"]
    value = project["entry-points"][GROUPS[kind]]["my-own2"]
    module, _, name = value.partition(":")
    tree = ast.parse(source(folder))
    assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert (folder / "src" / module / "py.typed").is_file()
    assert settings["tool"]["pytest"]["ini_options"]["filterwarnings"] == [f"error:::{module}"]
    assert f"cd {folder.name}" in told
    check_files(folder, monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_package_is_one_module_and_one_test_without_settings(
    kind: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = made(kind, "mine", "--bare", *DESCRIBED)
    module = f"kdtool_{kind}_mine"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "LICENSE", "README.md", "pyproject.toml", f"src/{module}/__init__.py", f"tests/test_{module}.py",
    }  # fmt: skip
    assert "recipe.yaml" not in told
    assert "runs/try" not in told
    check_files(folder, monkeypatch)
    for file in ("README.md", "pyproject.toml"):
        assert "What 'mine' is for." in (folder / file).read_text(encoding="utf-8")
    assert len(source(folder).splitlines()) <= 20
    assert "Config(" not in source(folder)
    tree = ast.parse((folder / "tests" / f"test_{module}.py").read_text(encoding="utf-8"))
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)][-1].startswith("TestMine")


@pytest.mark.parametrize("words", [("my-own2",), ("mine", "--bare", *DESCRIBED)], ids=["whole", "bare"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_package_declares_what_its_module_imports(kind: str, words: tuple[str, ...], made: Made) -> None:
    folder, _ = made(kind, *words)
    declared = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[\[>]", requirement)[0].replace("-", "_") for requirement in declared}
    found: set[str] = set()
    for node in ast.walk(ast.parse(source(folder))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    assert (found | {"kdtool"}) - set(sys.stdlib_module_names) == names


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("teacher", "my-teacher", "class MyTeacher(kdtool.Teacher)"),
        ("loss", "my-loss", "class MyLoss(kdtool.TokenLoss)"),
        ("loss", "mine", "class MineLoss(kdtool.TokenLoss)"),
        ("command", "my-command", "def my_command("),
        ("command", "del", "def del_command("),
    ],
)
def test_names_say_the_kind_once(kind: str, name: str, expected: str) -> None:
    create(kind, name)
    assert expected in source(Path(f"kdtool-{kind}-{name}"))


def test_the_licence_is_chosen() -> None:
    create("loss", "a", "--licence", "Apache-2.0")
    create("loss", "b", "--licence", "none")
    assert "Apache License" in Path("kdtool-loss-a/LICENSE").read_text(encoding="utf-8")
    assert "Apache-2.0" in Path("kdtool-loss-a/pyproject.toml").read_text(encoding="utf-8")
    assert not Path("kdtool-loss-b/LICENSE").exists()
    assert "licen" not in Path("kdtool-loss-b/pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("los", "mine"), "did you mean 'loss'"),
        (("zebra", "mine"), "there are corpus, filter"),
        (("loss", "My_Loss"), "cannot be a plugin's name"),
        (("loss", "../escape"), "cannot be a plugin's name"),
        (("command", "new"), "there already, from kdtool-testing"),
        (("command", "run"), "kdtool's own"),
        (("loss", "there"), "kdtool-loss-there is there already"),
        (("loss", "mine", "--description", "a\nb"), "--description must be one line"),
        (("loss", "mine", "--description", 'a "b"'), "without double quotes"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (tmp_path / "kdtool-loss-there").mkdir()
    (tmp_path / "kdtool-loss-there" / "mine.txt").write_text("kept", encoding="utf-8")
    done = CliRunner().invoke(cli, ["new", *words])
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.rglob("*")] == ["kdtool-loss-there", "mine.txt"]
