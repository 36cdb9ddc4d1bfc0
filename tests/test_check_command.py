"""`kdtool check` as a user calls it: what it prints for people and for machines, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call


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
    """Where the student's tokenizer is not on this machine, its shape is found again for each part."""
    recipe = Path(__file__).resolve().parent.parent / "recipes" / "smallcoder.yaml"
    assert call(["check", str(recipe)]) == 0
    printed = capsys.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if line.startswith("student: ")]
    assert lines
    assert len(lines) == len(set(lines))


def test_what_does_not_fit_is_red_and_has_a_code_of_its_own(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, "--memory", "1MB"]) == 9
    printed = capsys.readouterr().out
    assert "does not fit: " in printed
    assert "of 1.0 MB" in printed


@pytest.mark.parametrize(
    ("corpus", "told"),
    [
        ({"use": "python-source", "folder": "sources"}, "folder: there is no folder {}/sources"),
        ({"use": "jsonl", "files": ["text.jsonl"]}, "files: there is no file {}/text.jsonl"),
        ({"use": "hub", "files": ["text.csv"], "text_column": "text"}, "files: there is no file {}/text.csv"),
        ({"use": "answers", "prompts": ["prompts.jsonl"]}, "prompts: there is no file {}/prompts.jsonl"),
        ({"use": "mbpp", "file": "mbpp.jsonl"}, "file: there is no file {}/mbpp.jsonl"),
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
    assert "proposed: a student of " in capsys.readouterr().out
    assert call(["check", file, "--fit", "8GB", "--json"]) == 0
    proposal = json.loads(capsys.readouterr().out)["proposal"]
    changes = [f"--set={key}={json.dumps(value)}" for key, value in proposal["settings"].items()]
    assert call(["check", file, "--memory", "8GB", "--json", *changes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"]["student"]["parameters"] == proposal["parameters"]
    assert found["forecast"]["memory"]["peak"] == proposal["peak"]


@pytest.mark.slow
def test_nothing_is_proposed_where_a_process_alone_is_larger(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["check", file, "--fit", "1MB"]) == 0
    assert "nothing that components propose fits into 1MB" in capsys.readouterr().out


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
        assert "control: it would train on 1,536 tokens in phase 'train', the student on 768" in capsys.readouterr().err
    assert not list(Path("runs").glob("*/phases")) + list(Path("store").glob("text"))
    recipe["control"]["trainer"] = {"learning_rate": 1e-3}
    Path(file).write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["check", file]) == 0
