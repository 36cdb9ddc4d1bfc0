"""Examples of READMEs are assembled with stand-ins for what is not installed, wherever a recipe names it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdtool_testing.readme_examples import uses
from kdtool_testing.stand_ins import STAND_INS

_LOSSES = "losses: {absent: {}}"


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ("evaluators: {absent: {most: 3}}", "evaluator"),
        (f"train: {{{_LOSSES}, transforms: {{absent: {{}}}}}}", "transform"),
        (f"train: {{first: {{steps: 1, {_LOSSES}, weightings: {{absent: {{}}}}}}}}", "weighting"),
        (f"train: {{first: {{steps: 1, {_LOSSES}, annotators: {{absent: {{language: python}}}}}}}}", "annotator"),
        (f"train: {{first: {{steps: 1, {_LOSSES}, signals: {{use: absent}}}}}}", "cache"),
    ],
)
def test_what_is_not_installed_is_stood_in_for(block: str, kind: str, tmp_path: Path) -> None:
    assert (kind, STAND_INS[kind]) in uses(block, tmp_path / "assembled")
