"""`kdtool push --space`: the page of the exporter `web` as a static Space."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import kdtool
import pytest
import yaml
from finished_run import CARD, exporter
from hub_stand_in import Hub
from kdtool._cli import call
from kdtool._results.files import write_results

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")  # of huggingface_hub


@pytest.fixture
def page(results: kdtool.Results) -> Path:
    """The folder of a page that the run exported, too."""
    folder = results.folder / "exports" / "web-3" / "web"
    (folder / "onnx").mkdir(parents=True)
    for name in ("index.html", "config.json", "onnx/model_q4.onnx"):
        (folder / name).write_bytes(name.encode() * 100)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    made = kdtool.Artifact(folder, "web", size, "q4", f"kdtool serve --static {folder}", CARD.format("onnxruntime"))
    student = replace(results.arms[0], artifacts=(*results.arms[0].artifacts, made))
    components = (*results.components, exporter("web"))
    write_results(replace(results, arms=(student, *results.arms[1:]), components=components))
    return folder


def test_a_space_is_one_commit_with_the_page_and_its_headers(
    page: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["push", "small", "--space", "--to", "someone/page", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "static Space someone/page (private)" in shown
    assert f"published: {hub.url}/spaces/someone/page (commit " in shown
    files = hub.files("someone/page")
    assert files["index.html"] == (page / "index.html").read_bytes()
    assert files["onnx/model_q4.onnx"] == (page / "onnx" / "model_q4.onnx").read_bytes()
    assert not [path for path in files if "safetensors" in path or "gguf" in path], "the page only"
    front = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert (front["sdk"], front["app_file"], front["title"]) == ("static", "index.html", "page")
    assert front["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
    assert front["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert front["license"]
    assert "# page" in files["README.md"].decode()
    assert call(["push", "small", "--space", "--to", "someone/page", "--yes"]) == 0
    assert "nothing changed" in capsys.readouterr().out


def test_a_run_without_a_page_is_refused(results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["push", "small", "--space", "--yes"]) == 2
    assert "--space: the run exported no page; expected one, of the exporter web: add" in capsys.readouterr().err
    assert not hub.requests


def test_the_plan_of_a_space_names_its_files(page: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["push", "small", "--space", "--json"]) == 0
    assert "onnx/model_q4.onnx" in json.loads(capsys.readouterr().out)["files"]
    assert not hub.requests
