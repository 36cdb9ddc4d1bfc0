"""No test of this folder finds a key or a profile of the user: HOME is empty, and the key is that of the test server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kdtool_testing.servers.claude import serve
from kdtool_testing.servers.claude_api import KEY, MessagesServer

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from claude_asking import Ask


@pytest.fixture(autouse=True)
def _nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in ("HOME", "USERPROFILE", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr("kdtool_teacher_claude._batches._ORPHAN_SECONDS", 1.0)


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    with serve() as running:
        yield running


@pytest.fixture
def ask(server: MessagesServer, tmp_path: Path) -> Ask:
    from claude_asking import Ask

    return Ask(server.url, tmp_path)
