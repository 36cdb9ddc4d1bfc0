"""Each exported file opens where only its consumer is installed, by the lines of its model card."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kdtool
import pytest
from install import install

pytestmark = pytest.mark.slow

LLAMA_CPP = ("xllamacpp",)
ONNX_RUNTIME = ("onnxruntime", "tokenizers")
TRANSFORMERS = ("torch", "transformers", "compressed-tensors")
EXPORTERS = {
    "safetensors": {},
    "gguf": {"type": "q8_0"},
    "onnx": {},
    "onnx-int8": {"use": "onnx", "dtype": "int8"},
    "w8a8": {"use": "compressed-tensors", "scheme": "w8a8"},
    "w4a16": {"use": "compressed-tensors", "scheme": "w4a16"},
}
OPENED = {
    "safetensors": (TRANSFORMERS, "transformers"),
    "gguf": (LLAMA_CPP, "llama.cpp in Python"),
    "onnx": (ONNX_RUNTIME, "ONNX Runtime"),
    "onnx-int8": (ONNX_RUNTIME, "ONNX Runtime"),
    "w8a8": (TRANSFORMERS, "compressed-tensors"),
    "w4a16": (TRANSFORMERS, "compressed-tensors"),
}
"""By exporter: what a user installs, and the heading of the lines in the card."""


@pytest.fixture(scope="module")
def exported(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, kdtool.Artifact]:
    """The student of a short run, in every format."""
    folder = tmp_path_factory.mktemp("exported")
    train = {**small_recipe["train"], "steps": 2}
    recipe = {**small_recipe, "train": train, "control": None, "evaluators": {}, "exporters": EXPORTERS}
    (arm,) = kdtool.run(recipe, out=folder / "runs", store=folder / "store").arms
    return dict(zip(EXPORTERS, arm.artifacts, strict=True))


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


@pytest.mark.parametrize("name", EXPORTERS)
def test_the_lines_of_the_card_run(
    name: str, exported: Mapping[str, kdtool.Artifact], environment: Callable[[tuple[str, ...]], Path]
) -> None:
    (consumer, heading), artifact = OPENED[name], exported[name]
    folder = artifact.path if artifact.path.is_dir() else artifact.path.parent
    card = (folder / "README.md").read_text(encoding="utf-8")
    lines = re.search(rf"^### {re.escape(heading)}.*?^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert lines, f"the card lacks {heading}"
    assert run(environment(consumer), folder, lines[1]).strip().removeprefix("def fibonacci(n):").strip()


@pytest.mark.parametrize("name", [name for name in EXPORTERS if name != "gguf"])
def test_the_lines_of_the_report_run_from_anywhere(
    name: str,
    exported: Mapping[str, kdtool.Artifact],
    environment: Callable[[tuple[str, ...]], Path],
    tmp_path: Path,
) -> None:
    text = run(environment(OPENED[name][0]), tmp_path, exported[name].how_to_use)
    assert text.strip().removeprefix("def fibonacci(n):").strip()
