"""notebooks/quickstart.ipynb is its source, and runs from top to bottom on a tiny recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import pytest
import yaml
from nbclient import NotebookClient
from packages import ROOT

SOURCE = ROOT / "notebooks" / "quickstart.py"
INSTALLS = 'run(sys.executable, "-m", "pip", "install", "--quiet", *needed, *third_party(needed))'


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_the_notebook_is_its_source() -> None:
    notebook = jupytext.read(SOURCE.with_suffix(".ipynb"))
    again = "python -m jupytext --to ipynb notebooks/quickstart.py"
    assert cells(notebook) == cells(jupytext.read(SOURCE)), f"write it again: {again}"
    assert not any(cell.get("outputs") for cell in notebook.cells)


def execute(settings: str, folder: Path) -> list[Any]:
    """Execute the notebook with other settings and no installation, and return the outputs."""
    notebook = jupytext.read(SOURCE)
    (first,) = [cell for cell in notebook.cells if cell.source.startswith("SOURCE =")]
    (installing,) = [cell for cell in notebook.cells if INSTALLS in cell.source]
    first.source = settings
    # The environment of the tests has the packages, and no pip.
    installing.source = installing.source.replace(
        INSTALLS, "assert all(map(Path.is_dir, needed)) and third_party(needed)"
    )
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@pytest.mark.slow
@pytest.mark.nightly
def test_the_notebook_runs_to_the_report_and_a_second_time_finds_what_is_there(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    settings = {
        "SOURCE": str(ROOT),
        "FOLDER": str(tmp_path / "kept"),
        "RECIPE": str(tmp_path / "tiny.yaml"),
        "SETTINGS": ["train.steps=4"],
        "PACKAGES": "kdtool[quickstart]",
        "KEYS": [],
    }
    lines = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    first, second = (execute(lines, tmp_path) for _ in range(2))
    printed = ["".join(output.get("text", "") for output in outputs) for outputs in (first, second)]
    assert ["stages reused" in text for text in printed] == [False, True], printed
    assert any("<html" in output.get("data", {}).get("text/html", "") for output in second)
    assert len(list((tmp_path / "kept" / "runs").iterdir())) == 1
