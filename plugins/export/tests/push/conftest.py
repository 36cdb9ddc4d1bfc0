"""A finished run with two exported files, and a stand-in of the Hub that this process publishes to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import kdtool
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the stand-in, also in other tests of the repository

from finished_run import Push, write_run
from hub_stand_in import TOKEN, Hub


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kdtool.Results:
    """The results of `runs/small`, whose student was exported as a folder and as a file."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs" / "small")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, which huggingface_hub of this process takes for the Hub; its waits between trials are skipped."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(f"{_http.__name__}.time.sleep", lambda _: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def push(results: kdtool.Results, hub: Hub, capsys: pytest.CaptureFixture[str]) -> Push:
    """The command on that run, with the stand-in."""
    return Push(capsys)
