"""A measurement that is killed asks no finished question again, runs no finished program again, and ends with the same."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kdtool._cli import call
from kdtool_programs import Sandbox, SandboxError

pytestmark = pytest.mark.slow


def command(model: Path, folder: Path) -> list[str]:
    """Return the arguments that evaluate 40 problems, answered in three batches."""
    settings = {"limit": 40, "maximum_tokens": 12}
    changes = [part for key, value in settings.items() for part in ("--set", f"evaluators.humaneval.{key}={value}")]
    words = ["eval", f"one={model}", "--with", "humaneval", "--name", "one", *changes]
    return [*words, "--out", str(folder), "--store", str(folder / "store"), "--offline"]


def records(folder: Path, what: str) -> list[dict[str, Any]]:
    """Return what is in the journal of that name, wherever it is by now."""
    lines = [line for file in folder.glob(f"one/scores/*/*.{what}.jsonl") for line in file.read_bytes().split(b"\n")]
    return [json.loads(line) for line in lines if line.endswith(b"}")]


@pytest.fixture(scope="module")
def uninterrupted(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        with Sandbox():
            pass
    except SandboxError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("whole")
    assert call(command(teacher_folder, folder)) == 0
    return folder


@pytest.mark.parametrize(("what", "many"), [("samples", 16), ("verdicts", 5)])
def test_nothing_is_done_twice(teacher_folder: Path, uninterrupted: Path, tmp_path: Path, what: str, many: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "kdtool", *command(teacher_folder, tmp_path)], stdout=subprocess.DEVNULL
    )
    while len(before := records(tmp_path, what)) < many:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert call(command(teacher_folder, tmp_path)) == 0
    for kept in ("samples", "verdicts"):
        found = records(tmp_path, kept)
        assert len({record["id"] for record in found}) == len(found) == 40, kept
        said = "text" if kept == "samples" else "status"
        expected = {record["id"]: record[said] for record in records(uninterrupted, kept)}
        assert {record["id"]: record[said] for record in found} == expected
    assert records(tmp_path, what)[: len(before)] == before
