"""A step of training, a score and a run can be followed in few files: no more than today, and fewer from time to time."""

from __future__ import annotations

from pathlib import Path

import pytest
from traced_files import trace

MOST = {"step": 24, "score": 28, "run": 190}
"""Files of kdtool and its packages whose functions are called."""

pytestmark = pytest.mark.slow


def test_a_reader_opens_few_files(tmp_path: Path) -> None:
    files = {name: sorted(traced.files) for name, traced in trace(tmp_path).items()}
    assert all(files.values())
    assert not {name: found for name, found in files.items() if len(found) > MOST[name]}
