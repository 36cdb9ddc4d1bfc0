"""A browser for the tests of the page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the stand-ins, also in other tests of the repository

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for each file: while one is open, its event loop runs, and other files could not run theirs."""
    from page_window import open_browser

    with open_browser() as browser:
        yield browser
