"""An S3 server, and a recipe without torch, the small pipeline of the core's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[3] / "core" / "tests")]  # `toy` and its recipe

from object_server import KEYS  # noqa: E402
from toy_recipe import toy_recipe  # noqa: E402


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The address of a server that refuses and cuts some requests."""
    command = [sys.executable, str(HERE / "object_server.py"), "--faults", "0.05"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        assert server.stdin is not None
        server.stdin.close()
        server.stdout.read()


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store."""
    if request.param == "file":
        return f"file://{tmp_path}/shared"
    for name, value in {**KEYS, "AWS_ENDPOINT_URL_S3": request.getfixturevalue("endpoint")}.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{os.urandom(4).hex()}"


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A recipe with one seed and no control."""
    return {**toy_recipe(), "seeds": [0], "control": False}
