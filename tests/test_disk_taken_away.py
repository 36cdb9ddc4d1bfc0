"""A disk that is full or read-only when a stage begins: a sentence, exit code 8, and a run that goes on when there is room.

The disk is a real one: a small tmpfs, filled to the last byte or mounted read-only while the run works in it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_process import command, log_of, recipe_with_faults

pytestmark = pytest.mark.slow

_FULL, _READ_ONLY = "No space left on device", "Read-only file system"


def mounts(*arguments: str) -> bool:
    """Run mount or umount; say whether it was allowed."""
    if sys.platform != "linux" or not shutil.which("mount"):
        return False
    return subprocess.run(arguments, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() or not mounts("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)):
        pytest.skip("a disk that can be filled needs Linux and the right to mount one")
    yield folder
    while mounts("umount", str(folder)):
        pass


def test_at_every_stage_it_is_a_sentence_and_the_run_goes_on(
    recipe: dict[str, Any], tmp_path: Path, disk: Path
) -> None:
    file, log = recipe_with_faults({**recipe, "control": False}, tmp_path), tmp_path / "log"
    code, said = command(file, tmp_path / "whole", tmp_path / "whole-store", log)
    assert code == 0, said
    names = [words[1] for _, words in log_of(log) if words[0] == "made"]
    first = sorted({names.index(name) for name in names})
    training = names.index("phases:student")
    weights = next((tmp_path / "whole").glob("small/phases/*/model/model.safetensors")).stat().st_size
    faults = [f"{node} {what} 0" for node in (*first, len(names)) for what in ("fill", "read-only")]
    # Full in the midst of training: when its optimiser is saved (torch.save says so in its own way), then for the weights.
    faults[2 * training : 2 * training] = [f"{training} checkpoint {left}" for left in (weights + 200_000, 60_000)]

    for fault in faults:
        settings = {"FAULT": fault, "FAULT_NODES": str(len(names)), "FAULT_DISK": str(disk)}
        code, said = command(file, disk / "runs", disk / "store", tmp_path / "faulty.log", **settings)
        assert code == 8, (fault, said)
        assert re.search("error: (cannot write|.* cannot be written)", said), (fault, said)
        assert "make room" in said
        assert "Traceback" not in said
        assert "checkpoint" in fault or (_READ_ONLY if "read-only" in fault else _FULL) in said
        if "read-only" in fault:
            assert mounts("umount", str(disk))
        (disk / "filler").unlink(missing_ok=True)
    code, said = command(file, disk / "runs", disk / "store", tmp_path / "faulty.log")
    assert code == 0, said
    for path in (tmp_path / "whole").rglob("model.safetensors"):
        assert (disk / "runs" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    begun = [words[1] for _, words in log_of(tmp_path / "faulty.log") if words[0] == "start"]
    made = [words[1] for _, words in log_of(tmp_path / "faulty.log") if words[0] == "made"]
    assert made == names  # nothing that was finished was made again
    assert set(begun) == {*names, "report"}
