"""Host memory of a student of bfloat16 weights, from its building to its export, against the size of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "student_memory.py"
STAGES = ("build", "lora", "qlora", "export", "score")
BUFFERS = 24_000_000
"""A layer's weights in float32, its adapters' product, and what the allocator keeps: the same for any depth."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Linux says what is resident"),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    pytest.importorskip("bitsandbytes")
    file = tmp_path_factory.mktemp("memory") / "found.json"
    command = [sys.executable, "-P", str(PROGRAM), "--megabytes", "200", "--stages", *STAGES, "--json", str(file)]
    subprocess.run(command, check=True, timeout=900)
    found = json.loads(file.read_text(encoding="utf-8"))
    return {"weights": found["weights"], **{stage: sizes["rss"] for stage, sizes in found["stages"].items()}}


@pytest.mark.parametrize("stage", ["build", "lora", "qlora", "export"])
def test_it_takes_hardly_more_than_its_weights(stage: str, measured: dict[str, int]) -> None:
    assert 0.8 * measured["weights"] < measured[stage] < 1.2 * measured["weights"] + BUFFERS


def test_scoring_takes_them_once_in_the_dtype_that_is_computed_in(measured: dict[str, int]) -> None:
    assert measured["score"] < 2.3 * measured["weights"] + BUFFERS  # float32, where bfloat16 is slower
