"""Benchmarks run from end to end on a CPU, and a student's host memory is that of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux says what is resident")
GPU = BENCHMARKS / "gpu.py"
PARTS = ("jsd head", "train", "kernels", "trl", "texts", "none", "lora")
"""Those that need no compiler or kernels of a GPU."""


def measured(page: Path, *options: str) -> list[tuple[str, ...]]:
    """Run the benchmark, and return the page's rows: part, what was measured, figure and value."""
    subprocess.run([sys.executable, str(GPU), "--tiny", "--out", str(page), *options], check=True, timeout=900)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# What does a GPU show?")
    return [tuple(line.strip("| ").split(" | ")) for line in text.splitlines() if line.startswith("| ")][1:]


def test_every_part_gives_figures(tmp_path: Path) -> None:
    rows = measured(tmp_path / "gpu.md", "--parts", *PARTS)
    assert {row[0] for row in rows} == set(PARTS)
    assert not [row for row in rows if row[2] == "failed"]
    rates = [row for row in rows if row[2] == "tokens a second"]
    assert len(rates) >= 9
    assert all(float(row[3].replace(",", "")) > 0 for row in rates)


STAGES = ("build", "lora", "qlora", "export", "score")
BUFFERS = 24_000_000
"""A layer's weights in float32, its adapters' product, and what the allocator keeps: the same for any depth."""


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    pytest.importorskip("bitsandbytes")
    file = tmp_path_factory.mktemp("memory") / "found.json"
    program = [sys.executable, "-P", str(BENCHMARKS / "student_memory.py"), "--megabytes", "200"]
    subprocess.run([*program, "--stages", *STAGES, "--json", str(file)], check=True, timeout=900)
    found = json.loads(file.read_text(encoding="utf-8"))
    return {"weights": found["weights"], **{stage: sizes["rss"] for stage, sizes in found["stages"].items()}}


@ON_LINUX
@pytest.mark.parametrize("stage", ["build", "lora", "qlora", "export"])
def test_it_takes_hardly_more_than_its_weights(stage: str, memory: dict[str, int]) -> None:
    assert 0.8 * memory["weights"] < memory[stage] < 1.2 * memory["weights"] + BUFFERS


@ON_LINUX
def test_scoring_takes_them_once_in_the_dtype_that_is_computed_in(memory: dict[str, int]) -> None:
    assert memory["score"] < 2.3 * memory["weights"] + BUFFERS  # float32, where bfloat16 is slower
