"""Examples of READMEs are assembled with stand-ins for what is not installed, wherever a recipe names it."""

from __future__ import annotations

from pathlib import Path

import kdtool
import pytest
from kdtool_testing.readme_examples import STAND_INS, uses


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Return the value of `use` for a filter and a corpus of a local file, without their names."""
    (tmp_path / "own.py").write_text(
        "import kdtool\n\n\nclass Filter(kdtool.Filter):\n    'Keeps all.'\n    def kdtool_filter(self): ...\n\n\n"
        "class Asking(kdtool.Corpus):\n    derives_from = {'teacher': 'text'}\n    def kdtool_examples(self, run): ...\n",
        encoding="utf-8",
    )
    return f"{tmp_path.as_posix()}/own.py"


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ("teacher: {use: absent, size: 3}", "teacher"),
        ("teacher: {use: absent}\ncorpus: {use: 'OWN:Asking'}", "teacher"),
        ("evaluators: {absent: {most: 3}}", "evaluator"),
        ("train: {losses: {absent: {}}, transforms: {absent: {}}}", "transform"),
        ("extends: quickstart\nfilters: {absent: {}}", "filter"),
        ("extends: mine.yaml\ntrain: {first: {losses: {absent: {weight: 0.5}}, steps: 3}}", "loss"),
    ],
)
def test_what_is_not_installed_is_stood_in_for(block: str, kind: str, own: str, tmp_path: Path) -> None:
    found = uses(block.replace("OWN", own), tmp_path / "assembled")
    assert (kind, STAND_INS[kind]) in found
    assert {"corpus", "teacher", "student", "loss", "trainer"} <= {kind for kind, _ in found}


def test_the_rest_is_assembled_as_the_recipe_says(own: str, tmp_path: Path) -> None:
    assert ("filter", f"{own}:Filter") in uses(f"filters: {{own: {{use: '{own}:Filter'}}}}", tmp_path / "assembled")


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("teachher: {use: x}", "did you mean"),
        ("filters: {own: {use: 'OWN:Filter', size: 3}}", "unknown setting of filter"),
    ],
)
def test_a_wrong_example_is_refused(block: str, message: str, own: str, tmp_path: Path) -> None:
    with pytest.raises((kdtool.RecipeError, ValueError), match=message):
        uses(block.replace("OWN", own), tmp_path / "assembled")
