"""`benchmarks/gpu.py` runs from end to end on a CPU, at tiny sizes, and a part that fails leaves the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
PARTS = ("jsd head", "train", "kernels", "trl", "texts", "none", "lora")
"""Those that need no compiler or kernels of a GPU."""


def measured(page: Path, *options: str) -> list[tuple[str, ...]]:
    """Run the benchmark, and return the page's rows: part, what was measured, figure and value."""
    subprocess.run([sys.executable, str(PROGRAM), "--tiny", "--out", str(page), *options], check=True, timeout=900)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# What does a GPU show?")
    return [tuple(line.strip("| ").split(" | ")) for line in text.splitlines() if line.startswith("| ")][1:]


@pytest.mark.slow
def test_every_part_gives_figures(tmp_path: Path) -> None:
    rows = measured(tmp_path / "gpu.md", "--parts", *PARTS)
    assert {row[0] for row in rows} == set(PARTS)
    assert not [row for row in rows if row[2] == "failed"]
    rates = [row for row in rows if row[2] == "tokens a second"]
    assert len(rates) >= 9
    assert all(float(row[3].replace(",", "")) > 0 for row in rates)


@pytest.mark.slow
def test_a_part_that_fails_says_why_and_leaves_the_others(tmp_path: Path) -> None:
    rows = measured(tmp_path / "gpu.md", "--parts", "none", "texts", "--batch", "-1")
    assert [row[:3] for row in rows if row[0] == "none"] == [
        ("none", f"none, {sort} loss", "failed") for sort in ("token", "layer", "sequence")
    ]
    assert ("texts", "generating", "tokens a second") in [row[:3] for row in rows]
    assert ("texts", "-", "failed") in [row[:3] for row in rows]
    assert all("Error: " in row[3] for row in rows if row[2] == "failed")
