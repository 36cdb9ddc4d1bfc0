"""`kdtool generate --quantize`: a file of llama.cpp is made once, kept and named by its type."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import kdtool
import pytest
from kdtool._cli import call
from kdtool._results.files import write_results
from kdtool_testing import make_results


def ask(model: Path, *options: str) -> int:
    return call(["generate", str(model), "def add(", "--max-tokens", "4", "--raw", *options])


@pytest.fixture
def folder(teacher_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(teacher_folder, tmp_path / "model")


def test_a_file_is_written_once_and_again_after_the_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder.with_name("model-q8_0.gguf")
    written = []
    for _ in range(3):
        assert ask(folder, "--quantize", "q8_0") == 0
        printed = capsys.readouterr()
        assert printed.out.strip()
        written.append(f"writing {file}" in printed.err)
        if len(written) == 2:
            os.utime(folder / "model.safetensors", (file.stat().st_mtime + 1,) * 2)
    assert written == [True, False, True]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "model-q8_0.gguf"], (
        "no half of a file is left"
    )


def test_files_of_a_run_are_in_its_exports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder.with_name("small")
    run.mkdir()
    subjects = tuple(kdtool.Subject(role, role, folder) for role in ("student", "control"))
    write_results(replace(make_results(run), name="small", subjects=subjects, recipe={}))
    assert ask(run, "--quantize", "q8_0") == 0
    assert ask(run, "--quantize", "q8_0", "--model", "control") == 0
    made = sorted(path.name for path in (run / "exports").iterdir())
    assert made == ["small-control-q8_0.gguf", "small-student-q8_0.gguf"]
    file = Path(shutil.copy(run / "exports" / made[0], run / "small-q4_0.gguf"))
    exported = kdtool.Subject("student-gguf", "artifact", file)
    write_results(replace(make_results(run), name="small", subjects=(*subjects, exported), recipe={}))
    capsys.readouterr()
    assert ask(run, "--quantize", "q4_0") == 0
    assert "writing" not in capsys.readouterr().err, "the run's own file answers"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--quantize", "int3"], "unknown type; expected one of q4_k_m"),
        (["--quantize", "q8_0", "--model", "a", "--model", "b"], "answers with one file"),
        (["--quantize", "q8_0", "--model", "other"], "other is not a model's folder"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    folder: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(folder, *options) == 2
    assert reason in capsys.readouterr().err
    assert not list(folder.parent.glob("*.gguf"))
