"""Examples of READMEs are assembled with stand-ins for what is not installed, wherever a recipe names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdtool_testing.readme_examples import STAND_INS, uses

_LOSSES = "losses: {absent: {}}"


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ("evaluators: {absent: {most: 3}}", "evaluator"),
        (f"train: {{{_LOSSES}, transforms: {{absent: {{}}}}}}", "transform"),
        (f"train: {{first: {{steps: 1, {_LOSSES}, weightings: {{absent: {{}}}}}}}}", "weighting"),
        (f"train: {{first: {{steps: 1, {_LOSSES}, signals: {{use: absent}}}}}}", "cache"),
    ],
)
def test_what_is_not_installed_is_stood_in_for(block: str, kind: str, tmp_path: Path) -> None:
    assert (kind, STAND_INS[kind]) in uses(block, tmp_path / "assembled")


def test_a_teacher_that_is_not_installed_may_write_the_text(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import kdtool\n\n\nclass Asking(kdtool.Corpus):\n    derives_from = {'teacher': 'text'}\n\n"
        "    def kdtool_examples(self, run): ...\n",
        encoding="utf-8",
    )
    block = f"teacher: {{use: absent}}\ncorpus: {{use: '{tmp_path.as_posix()}/own.py:Asking'}}"
    assert ("teacher", STAND_INS["teacher"]) in uses(block, tmp_path / "assembled")
