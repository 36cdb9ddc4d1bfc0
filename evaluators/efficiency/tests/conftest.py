"""The machine's load goes unnoticed, except in the tests of that."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _other_work_unseen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system not count the work of others."""
    if "others" not in request.node.name:
        monkeypatch.setattr("kdtool_evaluator_efficiency._turns._busy_seconds", lambda: None)
