"""The repository's own rules: what lists packages agrees, imports have no cycles, and packages import what they may."""

from __future__ import annotations

import ast
import configparser
import itertools
import json
import re
import sys
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import grimp
import kdtool
import publishing_order
import pytest
import workspace
import yaml
from first_party import first_party
from kdtool._plugins.registry import GROUPS
from lock import NAMES, requirements
from packages import folders
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    listed = json.loads((CORE / "first_party.json").read_text(encoding="utf-8"))
    assert listed == first_party(dict(GROUPS)), "run tests/first_party.py"
    sentences = [known["about"] for names in listed.values() for known in names.values()]
    assert len({*sentences}) == len(sentences), "`kdtool plugins list` is there to choose from"


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


def test_no_module_imports_itself_through_others() -> None:
    """Imports within functions and for type checkers count, too."""
    packages = [path.parent.name for folder in folders() for path in sorted(folder.glob("src/*/__init__.py"))]
    assert {"kdtool", "kdtool_torch"} <= set(packages)
    for package in packages:
        graph = grimp.build_graph(package, cache_dir=None)
        modules = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        TopologicalSorter(modules).prepare()  # raises with the modules of a cycle


def test_core_imports_nothing_heavy_and_no_plugin() -> None:
    imported = {module for path in CORE.rglob("*.py") for module in _imports(path)}
    assert not imported & {"pyarrow", "transformers", "datasets"}
    assert not {module for module in imported if module.startswith("kdtool_")}


def test_extra_of_the_quickstart_holds_what_its_recipes_name_and_the_commands_that_use_a_run() -> None:
    recipes = kdtool.list_plugins("kdtool.recipes")
    assert recipes == ["overnight", "quickstart", "quickstart-seeds"]
    needed = {component["distribution"] for recipe in recipes for component in kdtool.check(recipe)["components"]}
    entries = {name: project.get("entry-points", {}) for name, (_, project) in PROJECTS.items()}
    commands = {
        name for name, groups in entries.items() if any("command" in key for key in groups.get("kdtool.defaults", ()))
    }
    extra = {"dependencies": CORE_PROJECT["optional-dependencies"]["quickstart"]}
    assert _requirements(extra) == {*needed, *commands} - {"kdtool"}


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


def test_no_process_imports_from_the_working_directory() -> None:
    """It may be a model's folder; `-P` keeps it out. Suites of plugins need the modules of their authors' folders."""
    folders = [folder for folder in ROOT.glob("*/**/src") if "testing" not in folder.parts]
    sources = {path: path.read_text(encoding="utf-8") for folder in folders for path in folder.rglob("*.py")}
    assert not [path for path, text in sources.items() if re.search(r'sys\.executable, "-(m|c)"', text)]
    assert sum('sys.executable, "-P", "-m"' in text for text in sources.values()) >= 5


def test_code_of_a_pull_request_runs_without_a_token_that_can_write() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "gate.yml").read_text(encoding="utf-8"))
    gate, comment = workflow["jobs"].values()
    assert (workflow["permissions"], gate["permissions"]) == ({}, {"contents": "read"})
    assert "token" not in str(gate)
    assert comment["permissions"] == {"pull-requests": "write"}
    assert [step["uses"].partition("@")[0] for step in comment["steps"] if "uses" in step] == [
        "actions/download-artifact"
    ]
    (posted,) = (step["run"] for step in comment["steps"] if "run" in step)
    assert posted.startswith("test ! -L gate/gate.md && gh pr comment ")


@pytest.mark.parametrize("workflow", ["tests", "release", "gate"])
def test_actions_of_ci_are_named_by_commit(workflow: str) -> None:
    text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+(\.\d+){2}", action) for action in uses)


def test_the_container_is_built_from_folders_that_exist_and_runs_as_an_ordinary_user() -> None:
    lines = (ROOT / "containers" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    (job,) = [found[1] for line in lines if (found := re.match(r"RUN python3 bootstrap\.py (\w+)", line))]
    assert f'"{job}": {job}' in (ROOT / "bootstrap.py").read_text(encoding="utf-8")
    for source, target in (line.split()[2:] for line in lines if line.startswith("COPY --from=build")):
        assert source == target  # scripts of an environment contain its path
        assert source.startswith("/opt/kdtool/")
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    parts = {path.relative_to(ROOT).parts[0] for folder in folders() for path in folder.rglob("src/**/*.py")}
    assert not {part for part in parts for pattern in patterns if fnmatch(part, pattern)}
    assert [line.split()[1] for line in lines if line.startswith("USER")] == ["kdtool"]
    assert any("useradd --create-home --uid 1000 kdtool" in line for line in lines)
    assert lines.index("USER kdtool") < lines.index('ENTRYPOINT ["kdtool"]')


def _entries(text: str) -> dict[str, list[str]]:
    """Versions by name."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), []).append(version)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_lock_has_a_version_that_each_requirement_allows(name: str) -> None:
    lock = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    locked = _entries(lock + (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    wanted = [Requirement(text) for text in requirements(name)]
    wrong = [
        str(requirement)
        for requirement in wanted
        for version in locked.get(canonicalize_name(requirement.name), [""])
        if not version or version not in requirement.specifier
    ]
    assert wanted
    assert not wrong, "run `python tests/lock.py`"


@pytest.mark.parametrize("name", NAMES)
def test_each_file_of_a_lock_is_named_by_its_hash_and_by_no_address(name: str) -> None:
    lock = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in lock
    assert not re.search(r"^(-|.* @ )", lock, re.MULTILINE)
    entries = re.split(r"^(?=[^\s#])", lock, flags=re.MULTILINE)[1:]
    assert entries
    assert all(re.search(r"\\\n +--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_every_package_is_a_member_of_the_workspace_with_a_source() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    uv = tomllib.loads(text)["tool"]["uv"]
    members = {path for pattern in uv["workspace"]["members"] for path in ROOT.glob(f"{pattern}/pyproject.toml")}
    assert members == {folder / "pyproject.toml" for folder in folders()}
    assert workspace.sources() in text, "run `python tests/workspace.py`"
    assert workspace.SECTION.sub(lambda _: workspace.sources(), text) == text
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert uv["constraint-dependencies"] == [line for line in lines if not line.startswith("#")]


def test_every_package_is_published_on_one_day_the_quickstart_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert publishing_order.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    days = [line.partition(": ")[2].split() for line in lines if line.startswith("day")]
    names = [name for day in days for name in day]
    assert sorted(names) == sorted({"kdtool", *PROJECTS})
    assert max(map(len, days)) == publishing_order.PER_DAY
    assert names[0] == "kdtool"
    minimal = {"kdtool"}
    waiting = [Requirement(text).name for text in CORE_PROJECT["optional-dependencies"]["quickstart"]]
    while waiting:
        name = waiting.pop()
        if name in PROJECTS and name not in minimal:
            minimal.add(name)
            waiting += [Requirement(text).name for text in PROJECTS[name][1]["dependencies"]]
    assert set(names[: len(minimal)]) == minimal


def test_locks_agree_on_versions() -> None:
    """An environment that holds the quickstart becomes one with everything without replacing a package."""
    test, *others = (
        _entries((ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8"))
        for name in ("test", "everything", "quickstart", "tox")
    )
    for lock in others:
        assert lock.items() <= test.items()
