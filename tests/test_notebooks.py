"""The notebook agrees with its source in percent format, and runs from top to bottom at tiny size."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "notebooks" / "quickstart.py"
MAKE = "uvx jupytext --to ipynb notebooks/quickstart.py"


def _cells(text: str) -> list[tuple[str, str]]:
    """Return the cells of a script in percent format: their type, and their source."""
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)[1:]
    cells = []
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        markdown = "[markdown]" in head
        lines = [re.sub(r"^# ?", "", line) if markdown else line for line in body.strip("\n").splitlines()]
        cells.append(("markdown" if markdown else "code", "\n".join(lines)))
    return cells


def test_the_notebook_agrees_with_its_source() -> None:
    notebook = json.loads(SOURCE.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    assert cells == _cells(SOURCE.read_text(encoding="utf-8")), f"make it again: {MAKE}"
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert notebook["metadata"]["accelerator"] == "GPU"


@pytest.mark.slow
def test_the_notebook_runs_and_a_second_time_resumes(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    clone = tmp_path / "kdtool"
    clone.symlink_to(ROOT)
    settings = [
        "train.steps=2", "rows.maximum_tokens=4096", "evaluators.perplexity.documents=2", "evaluators.line-completion=null",
        "evaluators.samples=null", "evaluators.efficiency=null",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "KDTOOL_REPOSITORY": str(ROOT),
        "KDTOOL_DRIVE": str(tmp_path / "drive"),
        "KDTOOL_SETTINGS": " ".join(settings),
    }

    def execute() -> str:
        done = subprocess.run(
            [sys.executable, SOURCE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "training of student, seed 0: done" in execute()
    assert (tmp_path / "drive/MyDrive/kdtool/runs/quickstart/report.html").is_file()
    assert "training of student, seed 0: done" not in execute(), "the second run reuses the first one's stages"
