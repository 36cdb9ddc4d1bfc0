"""Exported files of a whole run: measured beside the student, opened where only their consumer is, and published."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
import pytest
from click.testing import CliRunner
from install import install
from kdtool._cli import cli

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins" / "export" / "tests" / "push"))

from hub_stand_in import TOKEN, Hub

pytestmark = pytest.mark.slow

LLAMA_CPP, ONNX_RUNTIME = ("xllamacpp",), ("onnxruntime", "tokenizers")
TRANSFORMERS = ("torch", "transformers", "compressed-tensors")
STUDENT = "someone/small"


class Format(NamedTuple):
    """Settings of an exporter, what a user installs for its files, and the heading of the lines in the card."""

    settings: dict[str, Any]
    consumer: tuple[str, ...]
    heading: str


FORMATS = {
    "safetensors": Format({}, TRANSFORMERS, "transformers"),
    "gguf": Format({"type": "q8_0"}, LLAMA_CPP, "llama.cpp in Python"),
    "onnx": Format({}, ONNX_RUNTIME, "ONNX Runtime"),
    "onnx-int8": Format({"use": "onnx", "dtype": "int8"}, ONNX_RUNTIME, "ONNX Runtime"),
    "w8a8": Format({"use": "compressed-tensors", "scheme": "w8a8"}, TRANSFORMERS, "compressed-tensors"),
    "w4a16": Format({"use": "compressed-tensors", "scheme": "w4a16"}, TRANSFORMERS, "compressed-tensors"),
}


class Exported(NamedTuple):
    """A run that wrote its student in every format, and what it printed."""

    results: kdtool.Results
    printed: str

    @property
    def artifacts(self) -> dict[str, kdtool.Artifact]:
        """The exported files, by exporter."""
        return dict(zip(FORMATS, self.results.arms[0].artifacts, strict=True))


@pytest.fixture(scope="module")
def exported(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A short run that measures each file."""
    folder = tmp_path_factory.mktemp("exported")
    recipe = {
        **small_recipe,
        "train": {**small_recipe["train"], "steps": 2},
        "control": None,
        "exporters": {name: each.settings for name, each in FORMATS.items()},
        "evaluators": {"perplexity": {"limit": 3, "characters": 400}, "efficiency": {"turns": 1, "context": 256}},
    }
    with redirect_stdout(StringIO()) as printed:
        return Exported(kdtool.run(recipe, out=folder / "runs", store=folder / "store"), printed.getvalue())


def test_every_format_is_measured_as_the_student(exported: Exported) -> None:
    results = exported.results
    found = {(one.name, one.subject): one.value for one in results.measurements}
    memory = {one.subject: one for one in results.measurements if one.name == "resident-memory"}
    for name in FORMATS:
        assert found["perplexity", f"student-{name}"] == pytest.approx(found["perplexity", "student"], rel=0.1)
        assert found["decode-speed", f"student-{name}"] > 0
        assert 1e7 < memory[f"student-{name}"].value < 5e9
    parameters = results.models["student"].parameters
    assert found["file-size", "student-onnx"] > 4 * parameters, "with the weights"
    assert found["file-size", "student-onnx-int8"] < 0.6 * found["file-size", "student-onnx"]
    assert found["parameters", "student-w8a8"] == found["parameters", "student-w4a16"] == parameters
    peaks = {one.subject for one in results.measurements if "held" in one.settings}
    assert peaks == {"student-onnx", "student-onnx-int8"}, "of a process of their own, the rest at rest"
    assert "torch.onnx" not in exported.printed

    assert memory["student-gguf"].settings["program"] == "exporters.gguf"
    assert memory["student-safetensors"].settings["program"].startswith("transformers, ")
    assert {one.settings["context"] for one in memory.values()} == {"256 tokens"}
    assert memory["student-gguf"].value < memory["student-safetensors"].value, "llama.cpp is smaller than torch"
    report = (results.folder / "report.html").read_text(encoding="utf-8")
    assert "of the memory at a context of 256 tokens, measured otherwise (program);" in report


def test_every_file_has_its_row_and_its_card(exported: Exported) -> None:
    results = exported.results
    section = (results.folder / "report.html").read_text(encoding="utf-8").partition("Exported files")[2]
    shown = CliRunner().invoke(cli, ["show", str(results.folder)]).output
    files = {file.arm.removeprefix("student-"): file for file in results.exported_files()}
    assert list(files) == list(FORMATS)
    for name, file in files.items():
        kind = f"{file.artifact.format} {file.artifact.quantisation}".rstrip()
        assert kind in section
        assert "bits-per-byte" in file.comparisons
        is_folder = file.artifact.path.is_dir()
        link, inside = (
            results.folder / "exports" / (name if is_folder else "small-q8_0.gguf"),
            "config.json" * is_folder,
        )
        assert (link / inside).samefile(file.artifact.path / inside)
        (row,) = (line for line in shown.splitlines() if line.endswith(f" {link}"))
        assert row.startswith(f"{kind} ")
        folder = file.artifact.path if is_folder else file.artifact.path.parent
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "| perplexity, per token, lower is better |" in card
        assert "Not measured" not in card


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """Return a function that makes an environment with a consumer alone, once, and returns its Python."""

    @cache
    def make(consumer: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp(consumer[0])
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        install(python, [], *consumer)
        assert "ModuleNotFoundError" in run(python, folder, "import kdtool", ends=1)
        return python

    return make


def run(python: Path, folder: Path, code: str, *, ends: int = 0) -> str:
    """Run code in a folder, isolated from this environment, and return what it wrote."""
    done = subprocess.run(
        [python, "-I", "-X", "utf8", "-c", code],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == ends, done.stderr
    return done.stdout if not ends else done.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_lines_of_card_and_report_run_where_only_the_consumer_is(
    name: str, exported: Exported, environment: Callable[[tuple[str, ...]], Path], tmp_path: Path
) -> None:
    artifact, python = exported.artifacts[name], environment(FORMATS[name].consumer)
    folder = artifact.path if artifact.path.is_dir() else artifact.path.parent
    card = (folder / "README.md").read_text(encoding="utf-8")
    places = [(folder, code_below(card, FORMATS[name].heading))]
    if name != "gguf":
        places.append((tmp_path, artifact.how_to_use))
    for place, code in places:
        assert run(python, place, code).strip().removeprefix("def fibonacci(n):").strip()


def code_below(card: str, heading: str) -> str:
    """Return the first block of code below a heading of a card."""
    found = re.search(rf"^### {re.escape(heading)}.*?^```\w+\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert found, f"the card lacks {heading}"
    return found[1]


@pytest.fixture(scope="module")
def published(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """A stand-in for the Hub with a published student, and a folder in which a reader works."""
    folder = tmp_path_factory.mktemp("published")
    recipe = {
        **small_recipe,
        "train": {**small_recipe["train"], "steps": 2},
        "control": None,
        "exporters": {"safetensors": {}, "gguf": {}},
        "evaluators": {"perplexity": {"limit": 3, "characters": 400}},
    }
    kdtool.run(recipe, out=folder / "runs", store=folder / "store")
    with Hub() as hub:
        reader = folder / "reader"
        reader.mkdir()
        read(hub, folder, "-m", "kdtool", "push", "small", "--yes", "--public")
        yield hub, reader


def read(hub: Hub, folder: Path, *arguments: str) -> str:
    """Run Python as a reader of the Hub."""
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    environment, command = {**os.environ, **own, "HF_TOKEN": TOKEN}, [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_reader_opens_the_repository_with_transformers_and_llama_cpp(published: tuple[Hub, Path]) -> None:
    hub, reader = published
    card = hub.files(STUDENT)["README.md"].decode()
    code = code_below(card, "transformers")
    assert f"folder = '{STUDENT}'" in code
    assert "def fibonacci(n):" in read(hub, reader, "-c", code)
    assert f"hf download {STUDENT} --local-dir small" in card
    downloading = "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; main()"
    read(hub, reader, "-c", downloading, "download", STUDENT, "--local-dir", "small")
    assert read(hub, reader / "small", "-c", code_below(card, "llama.cpp in Python")).strip()
    start = (reader / "small" / "Modelfile").read_text(encoding="utf-8").splitlines()[0]
    assert (reader / "small" / start.removeprefix("FROM ")).is_file()
