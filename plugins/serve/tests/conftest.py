"""A server with scripted models, a browser for the page, and the modules beside the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def student() -> StreamingRuntime:
    """The runtime behind the model "student"."""
    return StreamingRuntime()


@pytest.fixture
def server(student: StreamingRuntime) -> Iterator[Running]:
    """A server with a student and a control that cannot converse."""
    control = StreamingRuntime(lambda _: "pass\n", abilities=frozenset({"continue"}))
    with running(ScriptedModels({"student": student, "control": control})) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for each file: while one is open, its event loop runs, and other files could not run theirs."""
    from page_window import open_browser

    with open_browser() as browser:
        yield browser
