"""Ctrl-C and SIGTERM in the middle of training: no step is lost, and the run says where it resumes."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from run_process import command, log_of, recipe_with_faults

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kill is POSIX")]


def test_a_stopped_phase_resumes_at_its_last_step_to_the_same_weights(recipe: dict[str, Any], tmp_path: Path) -> None:
    small = {key: value for key, value in recipe.items() if key not in {"control", "exporters", "reporter"}}
    file = recipe_with_faults(small, tmp_path)
    changed = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps({**changed, "trainer": {**changed["trainer"], "checkpoint_every": 100}}), encoding="utf-8"
    )
    whole, stopped = tmp_path / "whole.log", tmp_path / "stopped.log"
    code, said = command(file, tmp_path / "whole", tmp_path / "whole-store", whole)
    assert code == 0, said
    ended = [words[1] for _, words in log_of(whole) if words[0] in {"made", "reused"}]
    node = ended.index("phases:student")

    def run(fault: str) -> tuple[int, str]:
        return command(file, tmp_path / "stopped", tmp_path / "store", stopped, FAULT=f"{node} {fault}")

    code, said = run("kill-at-step 2")
    assert code == -signal.SIGKILL, said
    code, said = run(f"signal-{signal.SIGINT:d}-at-step 3")
    assert code == 130, said
    assert "starts again: it was interrupted before its first checkpoint" in said
    assert "interrupted at step 3 of 8; it resumes at step 3" in said
    code, said = run(f"signal-{signal.SIGTERM:d}-at-step 8")  # the checkpoint is of the last step
    assert code == 130, said
    assert "resumes at step 3 of 8" in said
    assert "interrupted at step 8 of 8; it resumes at step 8" in said
    assert "stopped by SIGTERM; finished work is kept" in said
    assert "Traceback" not in said
    code, said = run("nothing 0")
    assert code == 0, said

    steps = [int(words[2]) for _, words in log_of(stopped) if words[0] == "step"]
    assert [*steps[-8:]] == [*range(1, 9)]
    assert _weights(tmp_path / "stopped") == _weights(tmp_path / "whole")


def _weights(runs: Path) -> dict[Path, bytes]:
    found = {path.relative_to(runs): path.read_bytes() for path in runs.glob("*/phases/*/model/*.safetensors")}
    assert found
    return found
