"""Exported files are measured beside the student, with the memory of the programs that run them."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import kdtool
import pytest
from click.testing import CliRunner
from kdtool._cli import cli

pytestmark = pytest.mark.slow


def test_the_report_says_what_a_gguf_file_saves(recipe: dict[str, Any]) -> None:
    kept = {key: recipe[key] for key in ("name", "teacher", "student", "corpus", "rows", "signals", "trainer", "train")}
    results = kdtool.run(
        {
            **kept,
            "seeds": [0],
            "exporters": {"gguf": {"type": "q8_0"}},
            "evaluators": {"perplexity": {"documents": 4}, "efficiency": {"turns": 1, "context": 256}},
        }
    )
    found = {one.subject: one for one in results.measurements if one.name == "resident-memory"}
    assert found["student-gguf"].settings["program"] == "exporters.gguf"
    assert found["student"].settings["program"].startswith("transformers, ")
    assert {one.settings["context"] for one in found.values()} == {"256 tokens"}
    assert 1e7 < found["student-gguf"].value < found["student"].value, "llama.cpp is smaller than torch"
    report = (Path(results.folder) / "report.html").read_text(encoding="utf-8")
    assert "of the memory at a context of 256 tokens, measured otherwise (program);" in report


FORMATS: dict[str, Any] = {
    "onnx": {},
    "onnx-int8": {"use": "onnx", "dtype": "int8"},
    "compressed-tensors": {},
    "w4a16": {"use": "compressed-tensors", "scheme": "w4a16"},
}


@pytest.fixture(scope="module")
def exported(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[kdtool.Results, str]:
    """The results of a run that wrote files for ONNX Runtime and for vLLM in two precisions each, and what it printed."""
    folder = tmp_path_factory.mktemp("exported")
    recipe = {
        **small_recipe,
        "train": {**small_recipe["train"], "steps": 2},
        "control": None,
        "exporters": FORMATS,
        "evaluators": {"perplexity": {"documents": 3, "characters": 400}, "efficiency": {"turns": 1, "context": 256}},
    }
    with redirect_stdout(StringIO()) as printed:
        return kdtool.run(recipe, out=folder / "runs", store=folder / "store"), printed.getvalue()


def test_every_format_is_measured_as_the_student(exported: tuple[kdtool.Results, str]) -> None:
    results, printed = exported
    found = {(one.name, one.subject): one.value for one in results.measurements}
    for name in FORMATS:
        assert found["perplexity", f"student-{name}"] == pytest.approx(found["perplexity", "student"], rel=0.1)
        assert found["decode-speed", f"student-{name}"] > 0
        assert 5e7 < found["resident-memory", f"student-{name}"] < 5e9
    assert found["file-size", "student-onnx"] > 4 * results.models["student"].parameters, "with the weights"
    assert found["file-size", "student-onnx-int8"] < 0.6 * found["file-size", "student-onnx"]
    for name in ("compressed-tensors", "w4a16"):
        assert found["parameters", f"student-{name}"] == results.models["student"].parameters
    peaks = {one.subject for one in results.measurements if "held" in one.settings}
    assert peaks == {"student-onnx", "student-onnx-int8"}, "of a process of their own, the rest at rest"
    assert "torch.onnx" not in printed


def test_every_file_has_its_row_and_its_card(exported: tuple[kdtool.Results, str]) -> None:
    results, _ = exported
    report = (results.folder / "report.html").read_text(encoding="utf-8")
    section = report.partition("Exported files")[2]
    shown = CliRunner().invoke(cli, ["show", str(results.folder)]).output
    files = results.exported_files()
    assert [file.arm for file in files] == [f"student-{name}" for name in FORMATS]
    for name, file in zip(FORMATS, files, strict=True):
        kind = f"{file.artifact.format} {file.artifact.quantisation}".rstrip()
        assert kind in section
        assert "perplexity" in file.comparisons
        link = results.folder / "exports" / name
        (row,) = (line for line in shown.splitlines() if line.endswith(f" {link}"))
        assert row.startswith(f"{kind} ")
        assert (link / "config.json").samefile(file.artifact.path / "config.json")
        card = (link / "README.md").read_text(encoding="utf-8")
        assert "| perplexity, per token, lower is better |" in card
        assert "Not measured" not in card


def test_the_check_foresees_the_files(small_recipe: dict[str, Any], tmp_path: Path) -> None:
    found = kdtool.check({**small_recipe, "exporters": FORMATS}, out=tmp_path / "runs", store=tmp_path / "store")
    import json

    print(json.dumps(found, default=str, indent=1))
