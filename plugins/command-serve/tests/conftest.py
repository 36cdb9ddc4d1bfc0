"""A server with scripted models, and the modules beside the tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running import Running, running
from scripted import ScriptedModels, StreamingRuntime


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
