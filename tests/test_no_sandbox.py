"""`--no-sandbox` leaves out components that run programs or lose their problems, and names them; the others stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kdtool._assembly.trust import without_sandbox
from kdtool._cli import cli

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize("name", ["claude-codellama", "smallcoder", "code-craft", "starcoder2-mini-gpt"])
def test_full_recipes_leave_out_their_programs_and_what_compares_with_them(name: str) -> None:
    said: list[str] = []
    settings = without_sandbox(RECIPES / f"{name}.yaml", {"name": "other"}, said.append)
    assert settings.pop("name") == "other"
    assert settings.keys() >= {
        "evaluators.humaneval", "evaluators.mbpp", "evaluators.contamination", "filters.decontamination",
    }  # fmt: skip
    assert all(any(key in line for line in said) for key in settings)


def test_a_check_accepts_the_recipe_and_names_what_is_left_out(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["evaluators"] = {**recipe["evaluators"], "humaneval": {"problems": 2}, "contamination": {}}
    file = tmp_path / "with-programs.yaml"
    file.write_text(yaml.safe_dump(recipe))
    arguments = ["check", str(file), "--no-sandbox", "--offline", "--json", "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    components = {each["name"] for each in json.loads(result.stdout)["components"]}
    assert "evaluators.perplexity" in components
    assert not components & {"evaluators.humaneval", "evaluators.contamination"}
    assert "evaluators.humaneval is left out, it needs a sandbox" in result.stderr
    assert "evaluators.contamination is left out, it has nothing left to compare with" in result.stderr


def test_problems_without_programs_keep_what_compares_with_them(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    evaluators = {"humaneval": {}, "answers-match": {"problems": "x.jsonl"}, "contamination": {}}
    file.write_text(yaml.safe_dump({"name": "x", "evaluators": evaluators, "filters": {"decontamination": {}}}))
    base = yaml.safe_load((RECIPES / "small" / "smallcoder.yaml").read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump({**base, "evaluators": evaluators, "filters": {"decontamination": {}}}))
    assert without_sandbox(file, {}, lambda _: None) == {"evaluators.humaneval": "false"}
