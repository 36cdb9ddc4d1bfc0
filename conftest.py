"""Settings of all tests, on machines that may be busy: no property has a time limit, and nobody warns of the load."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("kdtool", deadline=None)
    settings.load_profile("kdtool")


@pytest.fixture(autouse=True)
def _other_work_unseen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the machine not say how busy it is, but to the tests of that."""
    if find_spec("kdtool") and request.module.__name__.rpartition(".")[2] != "test_core_other_work":
        monkeypatch.setattr("kdtool._estimate.other_work._busy_seconds", lambda: None)
