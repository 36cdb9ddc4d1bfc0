"""A recipe without a tracker or a reporter gets the default ones: they show a run and change nothing of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._plugins import registry
from kdtool._plugins.distributions import Known, find_misplaced, points
from kdtool._recipe.parser import load_recipe
from plugin_site import install
from toy_recipe import Recipe

DEFAULTS = "[kdtool.defaults]\ntracker = x_shown:Seen\nreporter = x_shown:Paper\ntrainer = x_shown:Train\n"
NAMES = (
    "[kdtool.trackers]\nx-seen = x_shown:Seen\nx-other = x_shown:Other\n[kdtool.reporters]\nx-paper = x_shown:Paper\n"
)
SOURCE = """
import kdtool


class Seen(kdtool.Tracker):
    begun = []

    def kdtool_run_start(self, run):
        Seen.begun.append(run.name)


class Other(Seen):
    pass


class Paper(kdtool.Reporter):
    def kdtool_report(self, run, results):
        path = run.folder / "paper.txt"
        path.write_text(results.name, encoding="utf-8")
        return path
"""


@pytest.fixture
def put(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install distributions; no others have plugins."""

    def ours() -> tuple[Any, ...]:
        return tuple(point for point in points() if point.value.startswith("x_"))

    monkeypatch.setattr(registry, "points", ours)
    return lambda name, entry_points: install(site, name, entry_points, {f"{name.replace('-', '_')}.py": SOURCE})


def list_shown(recipe: Recipe) -> list[str]:
    return [f"{spec.path} {spec.use}" for spec in load_recipe(recipe).shared if spec.kind in {"tracker", "reporter"}]


def test_a_recipe_without_tracker_and_reporter_gets_the_defaults(recipe: Recipe, put: Callable[..., None]) -> None:
    plain = {key: value for key, value in recipe.items() if key not in {"trackers", "reporter"}}
    put("x-names", NAMES)
    assert list_shown(plain) == [], "nothing is a default where none is installed"
    put("x-shown", DEFAULTS)
    assert list_shown(plain) == ["trackers.x-seen x-seen", "reporter x-paper"]
    assert "x_shown" not in sys.modules, "a default is found without importing it"
    assert list_shown({**plain, "trackers": [], "reporter": None}) == []
    assert list_shown({**plain, "tracker": False, "reporter": False}) == []
    assert list_shown({**plain, "trackers": ["x-other"]}) == ["trackers.x-other x-other", "reporter x-paper"]
    assert find_misplaced(registry.GROUPS.values()) == ()
    del plain["trainer"]
    with pytest.raises(kdtool.RecipeError, match="trainer: is missing"):
        load_recipe(plain)  # only plugins that show a run have defaults


def test_of_several_defaults_the_projects_is_used_and_named(
    recipe: Recipe, put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del recipe["trackers"], recipe["reporter"]
    put("x-shown", DEFAULTS + NAMES)
    others = "[kdtool.defaults]\ntracker = x_a:Seen\nreporter = x_a:Paper\n"
    put("x-a", f"{others}[kdtool.trackers]\na-seen = x_a:Seen\n[kdtool.reporters]\na-paper = x_a:Paper\n")
    assert list_shown(recipe) == ["trackers.a-seen a-seen", "reporter a-paper"], "both are of others"
    ours = {"x-seen": Known("x-shown", ""), "x-paper": Known("x-shown[all]", "")}
    monkeypatch.setattr(registry, "find_known", lambda kind, name: ours.get(name))
    capsys.readouterr()
    assert list_shown(recipe) == ["trackers.x-seen x-seen", "reporter x-paper"]
    notes = capsys.readouterr().err
    for kind, name, other in (("tracker", "x-seen", "a-seen"), ("reporter", "x-paper", "a-paper")):
        assert f"note: {name} and {other} are each the default {kind}; {name} is used; to choose, write" in notes


def test_defaults_change_no_fingerprint_and_no_result(recipe: Recipe, put: Callable[..., None]) -> None:
    recipe |= {"trackers": [], "reporter": None}
    before = kdtool.run(recipe)
    put("x-shown", DEFAULTS + NAMES)
    del recipe["trackers"], recipe["reporter"]
    after = kdtool.run(recipe)
    assert sys.modules["x_shown"].Seen.begun == ["toy"]
    assert (before.report, after.report) == (None, after.folder / "paper.txt")
    assert [stage.name for stage in after.stages if not stage.reused] == []
    assert after.measurements == before.measurements


def test_a_run_ends_with_the_commands_that_use_it(
    recipe: Recipe, put: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put("x-uses", "[kdtool.commands]\nx-try = x_uses:try_it\nx-other = x_uses:other\n")
    put("x-more", "[kdtool.defaults]\ncommand-x-try = x_uses:try_it\n")
    (tmp_path / "toy.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["run", str(tmp_path / "toy.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "next: kdtool x-try toy" in lines
    assert not any("x-other" in line for line in lines)
    assert call(["run", str(tmp_path / "toy.yaml"), "--out", str(tmp_path / "out")]) == 0
    assert f"next: kdtool x-try {tmp_path / 'out' / 'toy'}" in capsys.readouterr().out.splitlines()
