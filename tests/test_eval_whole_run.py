"""Models that are there already, measured and compared by `kdtool eval` and `kdtool compare`, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._results.files import read_results

OLD = {"perplexity": "documents", "humaneval": "problems", "memorisation": "passages", "lm-eval": "documents"}
TEXT = ["--corpus", "python-source", "--set", "corpus.train_files=2", "--set", "corpus.test_files=3"]
SMALL = ["--set", "evaluators.perplexity.limit=3", "--set", "evaluators.perplexity.characters=300"]


@pytest.fixture
def models(teacher_folder: Path, tmp_path: Path) -> Path:
    """Two models' folders: one is the other after a touch of noise on its last norm."""
    import torch
    from safetensors.torch import load_file, save_file

    for name in ("plain", "noisy"):
        shutil.copytree(teacher_folder, tmp_path / name)
    weights = load_file(tmp_path / "noisy" / "model.safetensors")
    weights["model.norm.weight"] += torch.linspace(-0.5, 0.5, len(weights["model.norm.weight"]))
    save_file(weights, tmp_path / "noisy" / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


@pytest.fixture
def hub(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache of this machine, with the model owner/plain."""
    folder = models / "hub" / "models--owner--plain"
    shutil.copytree(models / "plain", folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(models / "hub"))
    return folder


def test_models_are_measured_compared_and_not_measured_again(
    models: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = {"use": "causal-lm", "model": teacher_folder, "dtype": "float32"}
    with_teacher = [word for key, value in teacher.items() for word in ("--set", f"teacher.{key}={value}")]
    command = ["eval", "plain", "worse=noisy", "--with", "perplexity,agreement", *TEXT, *SMALL, "--name", "two"]
    command += with_teacher
    assert call(command) == 0
    shown = capsys.readouterr().out
    assert "perplexity ↓, per token " in shown
    assert "Against worse, plain is" in shown
    results = read_results(models / "runs" / "two")
    values = {(m.name, m.subject): m.value for m in results.measurements}
    assert values["perplexity", "plain"] == pytest.approx(values["perplexity", "teacher"], rel=1e-3)
    assert values["kl-to-teacher", "plain"] < 1e-3 < values["kl-to-teacher", "worse"]
    yardsticks = {m.settings["teacher"] for m in results.measurements if m.name == "kl-to-teacher"}
    assert [each.partition(" ")[0] for each in yardsticks] == ["weights"], "another teacher is another measure"
    pairs = {(c.measurement, c.arm, c.against) for c in results.comparisons}
    assert {
        ("perplexity", "plain", "worse"),
        ("perplexity", "worse", "teacher"),
        ("kl-to-teacher", "plain", "worse"),
    } <= pairs
    assert results.report is not None
    assert call(command) == 0
    assert all(stage.reused for stage in read_results(models / "runs" / "two").stages)
    shutil.copy(models / "noisy" / "model.safetensors", models / "plain" / "model.safetensors")
    assert call(command) == 0
    again = {(m.name, m.subject): m.value for m in read_results(models / "runs" / "two").measurements}
    assert again["perplexity", "plain"] == values["perplexity", "worse"]


@pytest.mark.parametrize(
    ("model", "settings", "items"),
    [
        ("plain", [], 3),
        ("owner/plain", ["--limit", "2"], 2),
        ("mine=owner/plain", ["--limit", "2", "--set", "evaluators.perplexity.limit=1"], 1),
    ],
)
def test_items_of_a_model_are_limited_and_printed_as_json(
    model: str, settings: list[str], items: int, models: Path, hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", model, "--with", "perplexity,samples", *TEXT, *settings, "--json", "--offline", "--name", "one"]
    assert (
        call([*command, "--set", "evaluators.perplexity.characters=300", "--set", "evaluators.samples.tokens=4"]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert {value["arm"] for value in printed["values"]} == {"mine" if "=" in model else "plain"}
    measured = read_results(models / "runs" / "one").measurements
    assert {each.n for each in measured if each.name == "perplexity"} == {items}
    assert call(["show", "one", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == printed


@pytest.mark.parametrize(
    "name", sorted({*kdtool.list_plugins("kdtool.evaluators")} - {"contamination", "efficiency", "samples"})
)
def test_the_number_of_items_is_the_setting_limit_of_every_evaluator(name: str) -> None:
    fields = kdtool.load_plugin("kdtool.evaluators", name).Config.model_fields
    assert fields.keys() & {"limit", "documents", "problems", "examples", "passages"} == {"limit"}


@pytest.mark.parametrize("file", ["place", "place/notes.txt", "place/config.json"])
def test_an_eval_that_measured_nothing_says_why_and_is_not_done(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}", encoding="utf-8")
    assert call(["eval", "place", "--with", "perplexity", *TEXT]) == 2
    expected = (
        f"error: nothing was measured: perplexity: place is left out, no installed plugin opens {tmp_path / 'place'}; "
        "name a folder with config.json, a tokenizer and *.safetensors"
    )
    assert expected in capsys.readouterr().err
    assert call(["runs", "--json"]) == 0
    assert [run["state"] for run in json.loads(capsys.readouterr().out)] == ["unfinished"]


def test_a_teacher_is_measured_without_models(models: Path, teacher_folder: Path) -> None:
    teacher = ["--set", "teacher.use=causal-lm", "--set", f"teacher.model={teacher_folder}"]
    assert call(["eval", "--with", "perplexity", *TEXT, *SMALL, *teacher]) == 0
    (folder,) = (models / "runs").glob("eval-perplexity-*")
    assert {m.subject for m in read_results(folder).measurements} == {"teacher"}


def test_a_runs_student_is_measured_with_the_runs_own_recipe_and_runs_that_measured_are_compared(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["eval", "plain", "--with", "perplexity", *TEXT, *SMALL, "--name", "first"]) == 0
    evaluators: dict[str, Any] = {"perplexity": {"limit": 3, "characters": 300}, "efficiency": {}}
    evaluators["short"] = {"use": "perplexity", "limit": 3, "characters": 100}
    recipe = {"corpus": {"use": "python-source", "train_files": 2, "test_files": 3}, "evaluators": evaluators}
    Path("base.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert call(["eval", "noisy", "--recipe", "base.yaml", "--with", "perplexity", "--name", "second"]) == 0
    assert {m.name for m in read_results(models / "runs" / "second").measurements} == {"perplexity", "bits-per-byte"}
    assert call(["eval", "noisy", "--recipe", "base.yaml", "--with", "short", "--name", "alone"]) == 0
    alone = {m.name for m in read_results(models / "runs" / "alone").measurements}
    assert alone == {"short.perplexity", "short.bits-per-byte"}, "also where nothing else measures"
    capsys.readouterr()
    assert call(["compare", "first", "second", "--html", "page"]) == 0
    assert re.search(r"\n +n +first +second\nperplexity ↓", capsys.readouterr().out)
    assert "All pairwise comparisons" in (models / "page" / "report.html").read_text(encoding="utf-8")
    assert call(["eval", "plain", "--with", "perplexity", *TEXT, "--name", "third"]) == 0
    assert call(["compare", "first", "third"]) == 0
    assert "measured in different ways: documents, texts" in capsys.readouterr().out


@pytest.mark.slow
def test_a_gguf_file_is_measured_beside_the_folder_that_it_was_made_of(
    models: Path, teacher_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from kdtool_export.gguf.files import write_gguf
    from kdtool_transformers import open_model

    write_gguf(open_model(teacher_folder, dtype=torch.float32), models / "small.gguf")
    lines = ["--set", "evaluators.line-completion.limit=2", "--set", "evaluators.line-completion.maximum_tokens=8"]
    evaluators = "perplexity,line-completion,efficiency,agreement"
    command = ["eval", "plain", "file=small.gguf", "--with", evaluators, *TEXT, *SMALL, *lines, "--name", "files"]
    assert call(command) == 0
    results = read_results(models / "runs" / "files")
    values = {(m.name, m.subject): m.value for m in results.measurements}
    assert values["bits-per-byte", "file"] == pytest.approx(values["bits-per-byte", "plain"], rel=0.01)
    assert values["perplexity", "file"] == pytest.approx(values["perplexity", "plain"], rel=0.03)
    assert values["decode-speed", "file"] > 0
    assert values["prefill-speed", "file"] > 0
    assert values["file-size", "file"] == (models / "small.gguf").stat().st_size
    compared = {comparison.measurement for comparison in results.comparisons}
    assert {"bits-per-byte", "line-completion.edit-similarity"} <= compared
    assert "perplexity" not in compared, "whose tokenizer is not known"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plain"], "no evaluator is named"),
        (["--with", "perplexity", *TEXT], "nothing to measure"),
        (["nowhere", "--with", "perplexity"], "is not a model, nor a finished run"),
        (["plain", "plain", "--with", "perplexity"], "two models are called 'plain'"),
        (["plain", "--with", "perplexty"], "did you mean 'perplexity'"),
        (["plain", "--with", "perplexity", "--set", "student.layers=3"], "student: unknown key"),
        (["plain", "--with", "perplexity", "--name", "a b"], "the run's name (`--name`) must be a name"),
        (
            ["plain", "--with", "perplexity"],
            "perplexity: the run has no text to measure on; name it with --corpus NAME or --recipe",
        ),
        (["plain", "--with", "efficiency", "--limit", "2"], "--limit: efficiency has no setting `limit`"),
        *(
            (
                ["plain", "--with", name, "--set", f"evaluators.{name}.{old}=3"],
                "the number of items to measure is `limit`",
            )
            for name, old in OLD.items()
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    models: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err
