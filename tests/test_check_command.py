"""What `kdtool check`, `run --plan` and `--no-sandbox` say before a run, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import kdtool
import pytest
import yaml
from click.testing import CliRunner
from kdtool._assembly.trust import without_sandbox
from kdtool._cli import call, cli
from kdtool._estimate.check import Remedy, _check, leave_out_lost, proposals
from kdtool._estimate.forecast import ForecastCache

RECIPES = Path(__file__).parents[1] / "recipes"


def proposed(recipe: dict[str, Any]) -> list[str]:
    """Return the settings that a check may propose."""
    found = _check(recipe, {}, Path("store"), None, ForecastCache())
    return [key for one in proposals(found.assembly, found.asked) for key in one.settings]


@pytest.fixture
def file(recipe: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return str(path)


def test_for_machines_it_prints_what_the_function_returns(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, "--memory", "64GB", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = json.loads(json.dumps(kdtool.check(Path(file), memory="64GB")))
    for untimed in ("models", "trainable", "licences", "vocabularies", "fits", "components"):
        assert printed[untimed] == found[untimed]
    assert printed["forecast"]["memory"] == found["forecast"]["memory"]
    assert printed["forecast"]["tokens"] > 0


def test_what_does_not_fit_is_red_and_has_a_code_of_its_own(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, "--memory", "1MB"]) == 9
    printed = capsys.readouterr().out
    first, advice = printed.splitlines()[:2]
    assert re.match(r"✗ does not fit: \S+ [MG]B of memory needed, 1.0 MB available", click.unstyle(first))
    assert re.fullmatch(
        r"No suggested change is enough. Largest part: \d+ MB for processes that measure, in stage .+", advice
    )


@pytest.mark.parametrize(
    ("memory", "code", "words"),
    [("8GB", 0, "a student of "), ("1MB", 9, "No suggested change is enough. Largest part: ")],
)
def test_what_is_proposed_fits(
    file: str, memory: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["check", file, "--fit", memory]) == code
    printed = capsys.readouterr().out
    assert words in printed
    assert ("the recipe fits as it is" in printed) == (code == 0)


@pytest.mark.parametrize("words", [["--memory", "8GB", "--fit", "8GB"], ["--memory", "much"], ["--fit", "-1GB"]])
def test_sizes_that_are_none_are_explained(file: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, *words]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_random_weights_are_not_frozen_and_an_evaluator_can_be_left_out(file: str, recipe: dict[str, Any]) -> None:
    found = kdtool.check(Path(file), memory="64GB")
    assert found["fits"]["memory"]
    settings = proposed({**recipe, "student": {"use": "gpt", "parameters": "500k"}})
    assert not [key for key in settings if "lora" in key]
    assert "evaluators.efficiency" in settings
    assert [key for key in proposed(recipe) if "lora" in key]


@pytest.mark.parametrize("gpu", ["a100-80gb", "t4"])
def test_a_run_elsewhere_is_estimated_by_the_published_figures_of_its_gpu(
    gpu: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["check", file, "--gpu", gpu]) == 0
    printed = capsys.readouterr().out
    assert "CUDA context" in printed
    assert f"published speed of {gpu}" in printed
    assert "\n  peak GPU memory " in printed
    assert call(["check", file, "--gpu", "abacus"]) == 2


def test_a_proposal_without_programs_leaves_out_what_compares_with_them() -> None:
    path = RECIPES / "claude-codellama.yaml"
    found = _check(path, {}, Path("store"), None, ForecastCache())
    kept = Remedy({"evaluators.humaneval": False}, "without the evaluator humaneval", changes_result=False)
    assert leave_out_lost(kept, found.assembly).settings == kept.settings, "MBPP is left to compare with"
    programs = {f"evaluators.{name}": False for name in ("humaneval", "mbpp", "chat", "chat-mbpp")}
    left = leave_out_lost(Remedy(programs, "without programs", changes_result=False), found.assembly)
    assert left.settings == {**programs, "evaluators.contamination": False, "filters.decontamination": False}
    assert "without filters.decontamination" in left.cost
    with pytest.raises(kdtool.RecipeError, match="decontamination"):
        kdtool.check(path, programs)
    assert "filters.decontamination" not in {one["name"] for one in kdtool.check(path, left.settings)["components"]}


def test_a_plan_lists_the_models_that_would_be_fetched(tmp_path: Path) -> None:
    file = tmp_path / "uncached.yaml"
    recipe = {
        "name": "uncached",
        "corpus": {"use": "python-source", "train_files": 2},
        "rows": {"use": "packed", "length": 64},
        "student": {"use": "pretrained", "model": "codellama/CodeLlama-7b-hf"},
        "trainer": {"use": "standard"},
        "train": {"losses": {"ce": {}}, "steps": 1},
        "terms_acknowledged": {"student": "Llama 2 Community License"},
    }
    file.write_text(json.dumps(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "kdtool", "run", str(file), "--plan", "--store", str(tmp_path / "store")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "codellama/CodeLlama-7b-hf" in next(line for line in lines if "not known yet" in line)
    assert any(line.startswith("↓ fetch     weights of codellama/CodeLlama-7b-hf") for line in lines)
    assert "↻ run       training of student, seed 0" in lines
    assert not list((tmp_path / "hub").rglob("*.safetensors"))


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
