"""The process of the command line, prepared for its command."""

from __future__ import annotations

import gc
import sys

import pytest
from kdtool import __main__


@pytest.mark.parametrize(("command", "collects"), [("check", False), ("run", True)])
def test_garbage_is_collected_but_by_a_check(command: str, collects: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    for name in ("begin_again_with_joined_blocks", "prepare_threads"):
        monkeypatch.setattr(__main__, name, lambda *_: None)
    monkeypatch.setattr(__main__, "main", lambda: found.append(gc.isenabled()))
    monkeypatch.setattr(sys, "argv", ["kdtool", command, "recipe.yaml"])
    try:
        __main__.begin()
    finally:
        gc.enable()
    assert found == [collects]
