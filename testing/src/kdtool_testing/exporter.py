"""The suite of exporters."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from kdtool import Artifact, RunInfo, Subject

from kdtool_testing.component import ComponentConformance
from kdtool_testing.model_checks import check_answers, check_runtime
from kdtool_testing.toy.model_folder import write_toy_model

__all__ = ["ExporterConformance"]


class ExporterConformance(ComponentConformance):
    """An exporter writes below the run's folder, describes its files correctly, and opens them again, also elsewhere."""

    kind: ClassVar[str] = "exporter"
    opens: ClassVar[bool] = True
    """True if the exporter opens its artifacts for measurement; set False if nothing here runs the format."""

    def write_student(self, folder: Path) -> Path:
        """Write a trained student into `folder`, as `LanguageModel.save` leaves it, and return its folder."""
        return write_toy_model(folder)

    @pytest.fixture
    def artifact(self, run: RunInfo, tmp_path: Path) -> Artifact:
        """The artifact of a small student."""
        found: Artifact = self.ready(run).kdtool_export(run, self.write_student(tmp_path / "trained"))
        return found

    def test_it_writes_below_the_run_s_folder_alone(self, run: RunInfo, tmp_path: Path) -> None:
        trained = self.write_student(tmp_path / "trained")
        before = _content(trained)
        artifact = self.ready(run).kdtool_export(run, trained)
        assert isinstance(artifact, Artifact)
        assert artifact.path.exists()
        assert artifact.path.resolve().is_relative_to(run.folder.resolve())
        assert artifact.path != run.folder, "the engine keeps its own files there"
        assert _content(trained) == before, "the exporter must not change the trained student"
        assert {path.name for path in tmp_path.iterdir()} == {"trained", "run"}

    def test_what_it_says_of_its_files_is_so(self, artifact: Artifact) -> None:
        assert artifact.format
        files = [artifact.path] if artifact.path.is_file() else [p for p in artifact.path.rglob("*") if p.is_file()]
        assert artifact.bytes == sum(file.stat().st_size for file in files) > 0
        assert not [file for file in files if file.suffix in {".bin", ".pt", ".pkl"}], "pickles run code when opened"
        assert str(artifact.path) not in artifact.how_to_use, "the engine moves the files: write {path} for their place"
        assert not artifact.how_to_use or "{path}" in artifact.how_to_use
        assert str(artifact.path) not in artifact.card
        assert not [file for file in files if file.name == "README.md" and artifact.card], "the engine writes the card"

    def test_the_same_student_gives_the_same_files(self, tmp_path: Path) -> None:
        trained = self.write_student(tmp_path / "trained")
        contents = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            run = self.make_run(tmp_path / name)
            contents.append(_content(self.ready(run).kdtool_export(run, trained).path))
        assert contents[0] == contents[1]

    def test_it_opens_again_wherever_it_lies(self, run: RunInfo, artifact: Artifact, tmp_path: Path) -> None:
        moved = tmp_path / "elsewhere" / artifact.path.name
        moved.parent.mkdir()
        shutil.move(artifact.path, moved)
        runtime = self.ready(run).kdtool_open(run, Subject("exported", "artifact", moved, 0))
        assert (runtime is not None) == self.opens
        if runtime is not None:
            with runtime:
                check_runtime(runtime)
                check_answers(runtime.answer)
            runtime.close()

    def test_it_opens_nothing_else(self, run: RunInfo, artifact: Artifact, tmp_path: Path) -> None:
        exporter = self.ready(run)
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        (foreign / "notes.txt").write_text("no model", encoding="utf-8")
        assert exporter.kdtool_open(run, Subject("teacher", "teacher")) is None
        assert exporter.kdtool_open(run, Subject("student", "student", artifact.path, 0)) is None
        assert exporter.kdtool_open(run, Subject("foreign", "artifact", foreign, 0)) is None
        assert exporter.kdtool_open(run, Subject("foreign", "artifact", foreign / "notes.txt", 0)) is None


def _content(path: Path) -> Mapping[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
