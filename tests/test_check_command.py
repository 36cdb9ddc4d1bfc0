"""`kdtool check` as a user calls it: what it prints for people and for machines, and its exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import kdtool
import pytest
from kdtool._assembly.assemble import Assembly
from kdtool._cli import call
from kdtool._cli.check import _moment, _proposal
from kdtool._estimate.check import Remedy, _check, _Checked, leave_out_lost, proposals
from kdtool._estimate.forecast import AttributedEstimate, ForecastCache
from kdtool_transformers import CausalTeacher


def checked(recipe: dict[str, Any], cache: ForecastCache, settings: dict[str, Any] | None = None) -> _Checked:
    return _check(recipe, settings or {}, Path("store"), None, cache)


def looked_at(recipe: dict[str, Any]) -> tuple[Assembly, list[AttributedEstimate]]:
    """Return what a check finds of a recipe with the evaluator `efficiency`."""
    evaluators = {**recipe["evaluators"], "efficiency": {}}
    found = checked({**recipe, "evaluators": evaluators}, ForecastCache())
    return found.assembly, found.asked


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


@pytest.mark.slow
def test_nothing_is_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """If the student's tokenizer is not on this machine, its shape is found again for each part."""
    recipe = Path(__file__).resolve().parent.parent / "recipes" / "smallcoder.yaml"
    assert call(["check", str(recipe)]) == 0
    printed = capsys.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if line.startswith("student: ")]
    assert lines
    assert len(lines) == len(set(lines))


def test_what_does_not_fit_is_red_and_has_a_code_of_its_own(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, "--memory", "1MB"]) == 9
    printed = capsys.readouterr().out
    first, advice = printed.splitlines()[:2]
    assert re.match(r"✗ does not fit: \S+ [MG]B of memory needed, 1.0 MB available", click.unstyle(first))
    assert re.fullmatch(
        r"No suggested change is enough. Largest part: \d+ MB for processes that measure, in stage .+", advice
    )


@pytest.mark.parametrize(
    ("corpus", "told"),
    [
        ({"use": "python-source", "folder": "sources"}, "folder: no such folder: {}/sources"),
        ({"use": "jsonl", "files": ["text.jsonl"]}, "files: no such file: {}/text.jsonl"),
        ({"use": "hub", "files": ["text.csv"], "text_column": "text"}, "files: no such file: {}/text.csv"),
        ({"use": "answers", "prompts": ["prompts.jsonl"]}, "prompts: no such file: {}/prompts.jsonl"),
        ({"use": "mbpp", "file": "mbpp.jsonl"}, "file: no such file: {}/mbpp.jsonl"),
    ],
    ids=lambda value: value.get("use") if isinstance(value, dict) else "",
)
def test_text_that_is_not_there_is_named_with_its_place(
    corpus: dict[str, Any], told: str, recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**recipe, "corpus": corpus}), encoding="utf-8")
    assert call(["check", str(path)]) == 2
    assert told.format(Path.cwd()) in capsys.readouterr().err


def test_what_is_proposed_fits(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, "--fit", "8GB"]) == 0
    assert "a student of " in capsys.readouterr().out


def test_a_recipe_that_does_not_fit_fails_though_a_smaller_student_is_proposed(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        **kdtool.check(Path(file)),
        "proposal": {"settings": {"student.layers": 1}, "peak": 10**6, "parameters": 9},
    }
    found["fits"]["memory"], found["proposal"] = False, {**found["proposal"], "cost": "", "changes_result": True}
    monkeypatch.setattr("kdtool._estimate.check.check", lambda *_, **__: found)
    assert call(["check", file, "--fit", "8GB"]) == 9
    assert "proposed: a student of 9 parameters" in capsys.readouterr().out


def test_a_recipe_that_fits_is_not_called_a_proposal() -> None:
    proposal = {"parameters": 1000, "peak": 10**6, "cost": "", "changes_result": False}
    (line,) = _proposal({"proposal": {**proposal, "settings": {}}})
    assert line == "the recipe fits as it is: a student of 1,000 parameters, peak memory 1.0 MB"
    (line,) = _proposal({"proposal": {**proposal, "settings": {"student.layers": 2}}})
    assert line.startswith("proposed: a student of 1,000 parameters")


@pytest.mark.slow
def test_peak_memory_comes_first_and_components_only_if_asked_for(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["check", file, "--memory", "64GB"]) == 0
    printed = capsys.readouterr()
    verdict, _, heading, peak, *rest = printed.out.splitlines()
    assert re.fullmatch(r"✓ fits · \S+ [MG]B of 64.0 GB memory · \S+ MB of \S+ GB disk · about \d+ s", verdict)
    assert (heading, bool(re.fullmatch(r'  peak memory \S+ [MG]B, in stage "\S.*', peak))) == ("Memory", True)
    assert [line for line in rest if line.istitle()][:3] == ["Disk", "Time", "Models"]
    assert any(re.fullmatch(r"    KV cache for [\d,]+ tokens \(16-bit\): \S+ .?B", line) for line in rest)
    assert "kdtool-torch" not in printed.out


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("phases/student-seed0-train: head", 'in stage "training of student, seed 0" (head)'),
        ("scores/efficiency", 'in stage "measuring efficiency"'),
    ],
)
def test_a_moment_is_named_in_words(moment: str, words: str) -> None:
    titles = {"phases/student-seed0-train": "training of student, seed 0", "scores/efficiency": "measuring efficiency"}
    assert _moment({"stages": titles}, moment) == words


def test_nothing_is_proposed_where_a_process_alone_is_larger(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, "--fit", "1MB"]) == 9
    assert "No suggested change is enough. Largest part: " in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--memory", "8GB", "--fit", "8GB"], ["--memory", "much"], ["--fit", "-1GB"]])
def test_sizes_that_are_none_are_explained(file: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, *words]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_control_that_would_see_other_tokens_is_refused_before_anything_is_made(
    recipe: dict[str, Any], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["control"]["trainer"] = {"batch": 4}
    Path(file).write_text(json.dumps(recipe), encoding="utf-8")
    for command in ("check", "run"):
        assert call([command, file]) == 2
        assert (
            "control: it would train on 4 rows per step in phase 'train', the student on 2" in capsys.readouterr().err
        )
    assert not list(Path("runs").glob("*/phases")) + list(Path("store").glob("text"))
    recipe["control"]["trainer"] = {"learning_rate": 1e-3}
    Path(file).write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", file]) == 0


def test_two_passes_of_a_student_without_dropout_are_refused_before_anything_is_made(
    recipe: dict[str, Any], file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["train"]["losses"]["consistency"] = {}
    Path(file).write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", file, "--memory", "64GB"]) == 2
    assert "consistency: compares two passes of the student" in capsys.readouterr().err
    recipe["train"]["transforms"] = {"lora": {"dropout": 0.1}}
    Path(file).write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", file, "--memory", "64GB"]) == 0


def test_random_weights_are_not_frozen_and_an_evaluator_can_be_left_out(file: str, recipe: dict[str, Any]) -> None:
    found = kdtool.check(Path(file), memory="64GB")
    assert found["fits"]["memory"]
    assembly, asked = looked_at({**recipe, "student": {"use": "gpt", "parameters": "500k"}})
    settings = [key for one in proposals(assembly, asked) for key in one.settings]
    assert not [key for key in settings if "lora" in key]
    assert "evaluators.efficiency" in settings
    assembly, asked = looked_at(recipe)
    assert [key for one in proposals(assembly, asked) for key in one.settings if "lora" in key]


def test_attempts_ask_for_what_is_missing_only_where_settings_are_new(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(CausalTeacher, "kdtool_check", lambda self, run, when: asked.append(repr(self.config)))
    assert kdtool.check(Path(file), memory="600MB")["fits"]["memory"] is False
    assert len(asked) == len(set(asked)) > 0


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


def test_arms_and_attempts_share_models_and_the_forecast_is_the_same(recipe: dict[str, Any]) -> None:
    cache = ForecastCache()
    alone, first, second = (checked(recipe, shared) for shared in (ForecastCache(), cache, cache))
    assert len(cache.outlines) == 1 < len(first.assembly.arms)
    assert alone.forecast.memory == first.forecast.memory == second.forecast.memory
    frozen = checked(recipe, cache, {"train.transforms": {"freeze": {}}})
    assert (len(cache.models), len(cache.outlines)) == (1, 2)
    backward = "phases/student-seed0-train: backward"
    assert frozen.forecast.memory.moments[backward] != first.forecast.memory.moments[backward]


def test_unbounded_rows_are_named_as_unknown_in_the_verdict(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "unbounded.yaml"
    rows = {key: value for key, value in recipe["rows"].items() if key != "maximum_tokens"}
    path.write_text(json.dumps({**recipe, "rows": rows}), encoding="utf-8")
    assert call(["check", str(path)]) == 0
    verdict = capsys.readouterr().out.splitlines()[0]
    assert re.search(r"fits, as far as is known \(not known: .*text and rows of rows", verdict)
    path.write_text(json.dumps({**recipe, "rows": {**rows, "maximum_tokens": 20_000}}), encoding="utf-8")
    assert call(["check", str(path)]) == 0
    assert "text and rows of rows" not in capsys.readouterr().out


def test_a_proposal_without_programs_leaves_out_what_compares_with_them() -> None:
    path = Path(__file__).parents[1] / "recipes" / "claude-codellama.yaml"
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
