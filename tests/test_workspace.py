"""The uv workspace of the root's pyproject.toml: it holds every package, and what it repeats from elsewhere agrees."""

from __future__ import annotations

import tomllib

import workspace
from packages import ROOT, declared, folders

TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
UV = tomllib.loads(TEXT)["tool"]["uv"]


def test_every_package_is_a_member_with_a_source() -> None:
    members = {path for pattern in UV["workspace"]["members"] for path in ROOT.glob(f"{pattern}/pyproject.toml")}
    assert members == {folder / "pyproject.toml" for folder in folders()}
    assert workspace.sources() in TEXT, "run `python tests/workspace.py`"
    assert workspace.SECTION.sub(lambda _: workspace.sources(), TEXT) == TEXT


def test_a_section_that_follows_the_sources_stays() -> None:
    text = "[a]\n\n[tool.uv.sources] # old\ngone = { workspace = true }\n\n[b]\nkept = 1\n"
    assert workspace.SECTION.sub("[new]\n", text) == "[a]\n\n[new]\n\n[b]\nkept = 1\n"


def test_versions_of_torch_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert UV["constraint-dependencies"] == [line for line in lines if not line.startswith("#")]


def test_conflicts_name_packages_and_extras_that_exist() -> None:
    projects = {project["name"]: project for project in (declared(folder)["project"] for folder in folders())}
    for entry in (entry for conflict in UV["conflicts"] for entry in conflict):
        assert entry.get("extra") in {None, *projects[entry["package"]].get("optional-dependencies", {})}
