"""`benchmarks/gpu.py` runs from end to end on a CPU, at tiny sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_every_part_gives_figures(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    subprocess.run([sys.executable, str(PROGRAM), "--tiny", "--out", str(page)], check=True, timeout=900)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# What does a GPU show?")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert {row[0].strip("| ") for row in rows} == {"jsd head", "train", "kernels", "trl", "texts", "transforms"}
    assert not [row for row in rows if row[2] in ("failed", "stopped", "refused or failed")]
    rates = [row for row in rows if row[2] == "tokens a second"]
    assert len(rates) >= 9
    assert all(float(row[3].strip(" |").replace(",", "")) > 0 for row in rates)
