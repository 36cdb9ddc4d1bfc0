"""What `kdtool check`, `run --plan` and `--no-sandbox` say before a run, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import kdtool
import pytest
import yaml
from click.testing import CliRunner
from kdtool._assembly.trust import without_sandbox
from kdtool._cli import call, cli
from kdtool._contract.run_info import Gpu
from kdtool._estimate.check import Remedy, _check, leave_out_lost, proposals
from kdtool._estimate.forecast import ForecastCache
from kdtool._run.context import Context

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


@pytest.mark.parametrize(("gpu", "is_card"), [("a100-80gb", True), ("t4", True), ("m2-16gb", False)])
def test_a_run_elsewhere_is_estimated_by_the_published_figures_of_its_gpu(
    gpu: str, is_card: bool, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["check", file, "--gpu", gpu]) == 0
    printed = capsys.readouterr().out
    assert ("CUDA context" in printed) == ("\n  peak GPU memory " in printed) == is_card
    assert ("for launching its kernels" if is_card else f"published speed of {gpu}") in printed
    assert re.search(r"of training \(not counted: .*\d+ measurements\)", printed.splitlines()[0])
    assert call(["check", file, "--gpu", "abacus"]) == 2


@pytest.mark.parametrize(
    ("losses", "resolved"),
    [
        ({"forward-kl": {}, "hidden": {}}, "--gpu t4 --set signals.use=sampled --set train.losses.hidden=false"),
        ({"hidden": {}}, "--gpu t4 --set signals=false"),
    ],
)
def test_a_proposal_undoes_what_was_given_only_if_no_loss_can_use_it(
    losses: dict[str, Any], resolved: str, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["train"]["losses"], recipe["control"] = losses, False
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", "recipe.yaml", "--gpu", "t4", "--set", "signals.use=sampled"]) == 2
    assert capsys.readouterr().err.endswith(f"accepted:\n    kdtool check recipe.yaml {resolved}\n")


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
    recipe["evaluators"] = {**recipe["evaluators"], "humaneval": {"limit": 2}, "contamination": {}}
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


STUDENTS: dict[str, dict[str, Any]] = {
    "layers": {"use": "pruned", "layers": 1},
    "widths": {"use": "pruned", "layers": 1, "feed_forward": 64},
    "new": {"use": "gpt", "parameters": "500k"},
    "whole": {"use": "pretrained", "model": "teacher"},
}


@pytest.mark.parametrize("gpu", [None, "t4", "a100-80gb"])
@pytest.mark.parametrize("student", STUDENTS)
def test_settings_that_a_check_proposes_and_accepts_begin_to_train(
    student: str, gpu: str | None, recipe: dict[str, Any]
) -> None:
    """Each alone, and any two: 210 combinations. Students are built, and transforms are applied to their shapes."""
    recipe |= {"student": STUDENTS[student], "evaluators": {}, "exporters": {}}
    Path("teacher").symlink_to(recipe["teacher"]["model"])
    look = partial(_check, recipe, {}, Path("store"), Gpu.find(gpu) if gpu else None, ForecastCache())
    found = look()
    remedies, built, accepted = proposals(found.assembly, found.asked), set[str](), 0
    text = SimpleNamespace(examples=lambda split: [kdtool.Example("1", kdtool.Text("def f(x):\n" * 400), split)])
    for chosen in [*combinations(remedies, 1), *combinations(remedies, 2)]:
        settings = {key: value for one in chosen for key, value in one.settings.items()}
        with suppress(kdtool.RecipeError):
            found, accepted = look(settings), accepted + 1
            assert all(phase.outline is not None for phase in found.ahead.phases), settings
            of_models = repr([each.config for each in found.assembly.built.values() if each.spec.kind in MODELS])
            if of_models not in built:
                built.add(of_models)
                with found.assembly.reopen() as assembly:
                    run = Context.of(assembly, Path("run"), Path("store")).info(texts=text)
                    assert run.component("student", kdtool.Student).kdtool_build_student(run), settings
    assert accepted >= 10


MODELS = ("student", "teacher")
