"""The repository's own rules: what lists packages agrees, and packages import only what they may."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kdtool
import pytest
import yaml
from kdtool._plugins.registry import GROUPS

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "core" / "src" / "kdtool"
LIBRARIES = {
    "kdtool-data", "kdtool-essentials", "kdtool-measuring", "kdtool-programs", "kdtool-torch", "kdtool-transformers",
    "kdtool-student-gpt", "kdtool-teacher-openai", "kdtool-teacher-vllm",
}  # fmt: skip
"""Packages that other packages may require."""
ASKED_IF_THERE = {"kdtool-essentials": {"torch"}}
"""Packages that another imports only where they are installed: `kdtool init` asks torch for a GPU."""
MOST_PACKAGES, LONGEST = 50, 450
"""Packages of the repository, and lines of a file of a package."""


def _declarations() -> dict[str, tuple[Path, dict[str, Any]]]:
    paths = sorted([ROOT / "testing" / "pyproject.toml", *ROOT.glob("*/*/pyproject.toml")])
    found = {path.parent: tomllib.loads(path.read_text(encoding="utf-8")) for path in paths}
    return {declared["project"]["name"]: (folder, declared) for folder, declared in found.items()}


DECLARED = _declarations()
PROJECTS = {name: (folder, declared["project"]) for name, (folder, declared) in DECLARED.items()}
CORE_PROJECT = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_BY_MODULE = {name.replace("-", "_"): project for name, (_, project) in PROJECTS.items()}


def _environments() -> set[str]:
    """Names of tox's environments, with `{a,b}` written out."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "tox.ini", encoding="utf-8")
    text = re.sub(r"\\\n|\s", "", settings["tox"]["env_list"])
    names = re.findall(r"(?:[^{},]|\{[^}]*\})+", text)
    parts = [[part.strip("{}").split(",") for part in re.findall(r"\{[^}]*\}|[^{}]+", name)] for name in names]
    return {"".join(chosen) for choices in parts for chosen in itertools.product(*choices)}


ENVIRONMENTS = _environments()


def _requirements(project: dict[str, Any]) -> set[str]:
    return {re.split(r"[\s;<>=!~\[(]", requirement)[0] for requirement in project["dependencies"]}


def test_every_package_declares_itself_alike_and_needs_the_core_up_to_the_next_breaking_version() -> None:
    major, minor, _ = map(int, (ROOT / "VERSION").read_text(encoding="utf-8").split("."))
    breaking = f"{major + 1}.0" if major else f"0.{minor + 1}"
    assert 15 < len(PROJECTS) < MOST_PACKAGES
    for name, (folder, declared) in DECLARED.items():
        project = declared["project"]
        core = [text for text in project["dependencies"] if re.match(r"kdtool\b(?!-)", text)]
        assert core == [f"kdtool>={major}.{minor},<{breaking}"], name
        assert project["dynamic"] == ["version"], name
        assert project["description"], name
        assert name in (folder / "README.md").read_text(encoding="utf-8"), name
        assert list(folder.glob("src/*/py.typed")), name
        assert list(folder.glob("tests/**/test_*.py")), name
        assert "test" in declared["dependency-groups"], name


def test_the_extra_all_holds_every_package_with_the_extras_of_its_components() -> None:
    wanted = CORE_PROJECT["optional-dependencies"]["all"]
    assert _requirements({"dependencies": wanted}) == set(PROJECTS)
    chosen = {name: set[str]() for name in PROJECTS}
    for requirement in wanted:
        name, extras = re.findall(r"([\w-]+)(?:\[(.*?)\])?", requirement)[0]
        chosen[name].update(extras.split(","))
    listed = json.loads((CORE / "first_party.json").read_text(encoding="utf-8"))
    for known in (known for names in listed.values() for known in names.values()):
        package, _, extra = known["requirement"].rstrip("]").partition("[")
        assert extra in {"", "liger", *chosen[package]}, f"{known['requirement']} is not in kdtool[all]"  # liger: a GPU


def test_tox_tests_every_package_alone_and_at_its_lowest() -> None:
    assert {environment for environment in ENVIRONMENTS if environment.startswith(("pkg-", "lowest-"))} == {
        "lowest-core",
        *(f"{kind}-{name.removeprefix('kdtool-')}" for kind in ("pkg", "lowest") for name in PROJECTS),
    }


def test_list_of_what_is_not_installed_is_current() -> None:
    spec = importlib.util.spec_from_file_location("first_party", ROOT / "tests" / "first_party.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = json.loads((CORE / "first_party.json").read_text(encoding="utf-8"))
    assert listed == module.first_party(dict(GROUPS)), "run tests/first_party.py"


def test_packages_depend_on_the_core_and_libraries_alone_and_declare_what_they_import() -> None:
    for name, (folder, declared) in DECLARED.items():
        project = declared["project"]
        ours = {module for module in _declared(project) if module.startswith("kdtool")}
        assert ours <= {"kdtool", *(library.replace("-", "_") for library in LIBRARIES)}, name
        allowed = ours | {path.name for path in folder.glob("src/*")}
        imported = {module for path in folder.glob("src/**/*.py") for module in _imports(path)}
        assert {module for module in imported if module.startswith("kdtool")} <= allowed, name
        declared_here = _declared(project) | ASKED_IF_THERE.get(name, set())
        assert _foreign(folder.glob("src/**/*.py")) - allowed <= declared_here, f"{name}: imported, not declared"
        own = {path.stem for place in ("src", "tests") for path in folder.glob(f"{place}/**/*")}
        brought = {"kdtool", "pytest", "toy", "toy_recipe", *own}  # toy: the core's, which another's tests may use
        for_tests = _declared(project) | _declared({"dependencies": declared["dependency-groups"]["test"]})
        through = {one for library in for_tests & set(_BY_MODULE) for one in _declared(_BY_MODULE[library])}
        assert _foreign(folder.glob("tests/**/*.py")) - brought <= for_tests | through, f"{name}: tests import more"


def test_no_file_of_a_package_is_too_long_to_be_read_in_one_sitting() -> None:
    files = [*CORE.rglob("*.py"), *(path for folder, _ in PROJECTS.values() for path in folder.glob("src/**/*.py"))]
    lines = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {path: count for path, count in lines.items() if count > LONGEST}


def _declared(project: dict[str, Any]) -> set[str]:
    """Return what a project requires, with its extras, as modules are called."""
    extras = {"dependencies": [one for extra in project.get("optional-dependencies", {}).values() for one in extra]}
    return {requirement.replace("-", "_").lower() for requirement in _requirements(project) | _requirements(extras)}


def _foreign(paths: Iterable[Path]) -> set[str]:
    """Return the distributions that files import from, as modules are called."""
    imported = {module for path in paths for module in _imports(path)} - sys.stdlib_module_names
    known = {"yaml": "pyyaml", "PIL": "pillow"}
    return {known.get(module, module).lower() for module in imported}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_core_imports_nothing_heavy_and_no_plugin() -> None:
    imported = {module for path in CORE.rglob("*.py") for module in _imports(path)}
    assert not imported & {"pyarrow", "transformers", "datasets"}
    assert not {module for module in imported if module.startswith("kdtool_")}


def test_benchmarks_import_what_packages_or_their_requirements_bring() -> None:
    folder = ROOT / "benchmarks"
    text = (folder / "requirements.txt").read_text(encoding="utf-8")
    listed = {re.split(r"[<>=]", line)[0].replace("-", "_") for line in text.splitlines() if not line.startswith("#")}
    packages = {name.replace("-", "_") for name in PROJECTS} | {"kdtool"}
    brought = {one for project in (CORE_PROJECT, *_BY_MODULE.values()) for one in _declared(project)} | packages
    in_an_environment_of_its_own = {"trl", "datasets", "lm_eval"}
    own = {path.stem for path in folder.rglob("*.py")} | {"liger_kernel"}  # measured where it is installed
    assert _foreign(folder.rglob("*.py")) - brought - listed - own <= in_an_environment_of_its_own


def test_core_names_torch_only_for_type_checkers() -> None:
    for path in CORE.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if re.match(r"\s*(from|import) torch", line):
                assert "if TYPE_CHECKING:" in "\n".join(lines[:number]), path
                assert line.startswith("    "), path


def test_every_public_name_is_there() -> None:
    assert {"Field", "Loss", "run"} <= {*dir(kdtool)}
    assert all(getattr(kdtool, name) is not None for name in dir(kdtool))


def test_extra_of_the_quickstart_holds_what_its_recipes_name_and_the_commands_that_use_a_run() -> None:
    recipes = [ROOT / "recipes" / f"{name}.yaml" for name in ("quickstart", "quickstart-seeds", "overnight")]
    needed = {component["distribution"] for recipe in recipes for component in kdtool.check(recipe)["components"]}
    entries = {name: project.get("entry-points", {}) for name, (_, project) in PROJECTS.items()}
    commands = {
        name for name, groups in entries.items() if any("command" in key for key in groups.get("kdtool.defaults", ()))
    }
    extra = {"dependencies": CORE_PROJECT["optional-dependencies"]["quickstart"]}
    assert _requirements(extra) == {*needed, *commands} - {"kdtool"}


def test_ci_calls_tox_and_nothing_else() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    for job in workflow["jobs"].values():
        install, run = [step["run"] for step in job["steps"] if "run" in step]
        assert install == "python -m pip install --require-hashes --requirement locks/tox.txt"
        assert re.fullmatch(r"tox run (-m (matrix|nightly)|-e compatibility|\$\{\{ matrix.environments \}\})", run)
    named = {row["environments"] for row in workflow["jobs"]["push"]["strategy"]["matrix"]["include"]}
    assert "-m ci" in named
    assert {name for names in named - {"-m ci"} for name in names.removeprefix("-e ").split(",")} <= ENVIRONMENTS


def test_a_release_is_built_by_tox_without_rights_and_published_without_a_password() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    build, draft, publish = (workflow["jobs"][name] for name in ("build", "draft", "publish"))
    assert "permissions" not in build
    assert workflow["permissions"] == {"contents": "read"}
    (called,) = re.findall(r"tox run -e ([\w,]+)", text)
    assert set(called.split(",")) <= ENVIRONMENTS
    assert [step["uses"].partition("@")[0] for step in draft["steps"] if "uses" in step] == [
        "actions/download-artifact",
        "actions/attest-build-provenance",
    ]
    assert publish["environment"] == "pypi"
    assert "secrets." not in text
    assert not [step["run"] for job in (build, draft, publish) for step in job["steps"] if "${{" in step.get("run", "")]


def test_no_text_gives_pip_a_name_of_the_project_that_anyone_can_register() -> None:
    """`kdtool._plugins.distributions.install_command` writes such commands, and knows what is published."""
    named = re.compile(r"pip\W+install\b(?! -e)[^\n,;]*?(\bkdtool\b|\{)")
    kinds = {".md", ".py", ".pyi", ".yaml", ".yml", ".toml", ".jinja", ".html", ".js"}
    files = [path for path in ROOT.rglob("*") if path.suffix in kinds and not {"tests", "runs"} & {*path.parts}]
    found = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        if not any(part.startswith((".venv", ".tox")) for part in path.parts)
        for line in path.read_text(encoding="utf-8").splitlines()
        if named.search(line)
    }
    assert not found


@pytest.mark.parametrize("workflow", ["tests", "release"])
def test_actions_of_ci_are_named_by_commit(workflow: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+(\.\d+){2}", action) for action in uses)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "RELEASING.md"])
def test_scripts_and_environments_that_pages_for_maintainers_name_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    scripts = set(re.findall(r"\b(?:tests|core|docs)/[\w/]+\.py\b", text))
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)
    called = {name for names in re.findall(r"tox run -e ([\w,-]+)", text) for name in names.split(",")}
    assert called <= ENVIRONMENTS


def test_hooks_before_a_commit_call_tox_so_that_versions_of_tools_stand_in_one_place() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert all(hook["entry"].startswith("tox ") for hook in hooks["repos"][0]["hooks"])
