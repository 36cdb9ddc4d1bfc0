"""A component whose extra is not installed: refused before anything runs, with the command that installs it."""

from __future__ import annotations

from pathlib import Path

import kdtool
import pytest
from kdtool._plugins.distributions import missing_extra
from plugin_site import install
from toy_recipe import Recipe
from variants import variant

CODE = """
import toy


class Heavy(toy.Trainer):
    extra = "x-heavy"


class Light(toy.Trainer):
    pass


class Writer(toy.Export):
    extra = "x-heavy"
"""
ABOUT = """\
Metadata-Version: 2.1
Name: x-extras
Version: 1.0
Provides-Extra: x-heavy
Provides-Extra: x-light
Requires-Dist: click
Requires-Dist: x-absent>=2; extra == "x-heavy"
Requires-Dist: pydantic>=99; extra == "x-heavy"
Requires-Dist: pluggy; extra == "x-heavy"
Requires-Dist: x-elsewhere; sys_platform == "nowhere" and extra == "x-heavy"
Requires-Dist: pluggy>=1; extra == "x-light"
"""


@pytest.fixture(autouse=True)
def _installed(site: Path) -> None:
    points = "[kdtool.trainers]\nx-heavy = x_extras:Heavy\nx-light = x_extras:Light\n"
    points += "[kdtool.exporters]\nx-writer = x_extras:Writer\n"
    install(site, "x-extras", points, {"x_extras.py": CODE}, metadata=ABOUT)


def test_what_an_extra_lacks_is_named_with_the_command_that_brings_it() -> None:
    lacks = missing_extra("x-extras", "x-heavy")
    assert (
        lacks == "needs x-absent>=2 and pydantic>=99, not installed here; get it with: pip install 'x-extras[x-heavy]'"
    )
    assert missing_extra("x-extras", "x-light") == missing_extra("x-extras", "") == ""


def test_a_local_class_that_extends_one_with_an_extra_is_built(recipe: Recipe, tmp_path: Path) -> None:
    code = 'import x_extras\n\n\nclass Mine(x_extras.Heavy):\n    "Counts."\n'
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    kdtool.check({**recipe, "trainer": f"{tmp_path / 'mine.py'}:Mine"})


def test_the_recipe_is_refused_with_its_other_problems(recipe: Recipe) -> None:
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.check({**recipe, "trainer": "x-heavy"}, {"rows.no_such_setting": 1})
    said = str(caught.value)
    assert "trainer 'x-heavy' needs x-absent>=2 and pydantic>=99" in said
    assert "no_such_setting" in said
    kdtool.check({**recipe, "trainer": "x-light"})


def test_an_exporter_without_its_extra_opens_nothing_and_is_named_only_where_it_may_be_needed(recipe: Recipe) -> None:
    results = kdtool.run({**recipe, "exporters": {"json": variant("Opener")}})
    with kdtool.open_models(results.folder) as models:
        models.open(next(iter(models.subjects))).close()
    lacks = r"no installed plugin opens .*; x-writer needs x-absent>=2"
    with kdtool.open_models(results.arms[0].path) as models, pytest.raises(kdtool.UsageError, match=lacks):
        models.open(next(iter(models.subjects)))
