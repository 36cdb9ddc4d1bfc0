"""Artefacts under kill -9: complete or absent, never half; and rows are read back as they were written."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import kdtool
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdtool._run.stages.row_files import StoredRows, write_rows
from kdtool._store.artefacts import Artefacts
from safetensors.numpy import load_file

WORK = """
import sys, time
from pathlib import Path
import kdtool
from kdtool._store.artefacts import Artefacts

def build(folder):
    for number in range(20):
        part = folder / f"part{number}"
        if not part.exists():
            beside = folder / "writing"
            beside.write_bytes(bytes([number]) * 50_000)
            beside.replace(part)
            kdtool.commit(folder, part)
        time.sleep(0.005)
    (folder / "writing").unlink(missing_ok=True)

print("started", flush=True)
Artefacts(Path(sys.argv[1])).make("kind", "label", "f" * 64, build=build, waiting=print)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the trainer's tests cover TerminateProcess")
def test_killed_anywhere_an_artefact_is_whole_or_absent(tmp_path: Path) -> None:
    generator, in_the_middle = random.Random(0), 0
    for attempt in range(12):
        root = tmp_path / str(attempt % 4)
        process = subprocess.Popen([sys.executable, "-c", WORK, str(root)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(generator.uniform(0, 0.2))
        in_the_middle += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = Artefacts(root).find("kind", "label", "f" * 64)
        if found is not None:
            parts = {f"part{number}" for number in range(20)}
            assert {path.name for path in found.path.iterdir()} == {"manifest.json", *parts}
    assert in_the_middle
    subprocess.run([sys.executable, "-c", WORK, str(tmp_path / "0")], check=True)
    assert Artefacts(tmp_path / "0").find("kind", "label", "f" * 64) is not None


TOKEN = st.integers(0, 2**31 - 1)


def _row(values: list[int], number: int) -> kdtool.Row:
    flags = [value % 2 == 0 for value in values]
    return kdtool.Row(f"r{number}", values, flags, [number] * len(values), {"class": values[::-1]})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(TOKEN, min_size=n, max_size=n), min_size=1)))
def test_rows_are_read_back_as_written(tmp_path: Path, rows: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool._run.stages.row_files._SHARD_TOKENS", 10)
    written = [_row(values, number) for number, values in enumerate(rows)]
    assert write_rows(iter(written), tmp_path, "me") == len(written)
    stored = StoredRows(tmp_path, "f")
    assert [stored[index] for index in range(len(stored))] == written
    with pytest.raises(IndexError):
        stored[len(written)]


def test_rows_are_a_safetensors_file_that_others_read(tmp_path: Path) -> None:
    write_rows([_row([1, 2, 3], 0), _row([4, 5, 6], 1)], tmp_path, "me")
    tensors = load_file(tmp_path / "rows-00000.safetensors")
    assert tensors["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert tensors["columns.class"].tolist() == [[3, 2, 1], [6, 5, 4]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([_row([1, 2], 0), _row([1], 1)], "of 1 tokens, the first one of 2"),
        ([_row([1, 2], 0), _row([1, 3], 0)], "twice"),
    ],
)
def test_bad_rows_name_the_packer(tmp_path: Path, rows: list[kdtool.Row], message: str) -> None:
    with pytest.raises(kdtool.PluginError, match=f"me returned .*{message}"):
        write_rows(rows, tmp_path, "me")
