"""Makes `vllm_stand_in` importable, and serves a tiny model by it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kdtool_testing.tiny_models import save_tiny
from kdtool_transformers import open_model

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from vllm_stand_in import Served


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny(path)
    return path


@pytest.fixture
def served(model: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A stand-in that writes states of some layers, or scores chosen tokens if the module's CHOSEN is set."""
    from vllm_stand_in import Served, StandIn, serving

    chosen = getattr(request.module, "CHOSEN", False)
    stand_in = StandIn(open_model(model), tmp_path / "states", () if chosen else (1, 3, 4))
    stand_in.writes_states = not chosen
    settings = {"chosen": "server"} if chosen else {"layers": (0, 2), "folder": stand_in.folder}
    with serving(stand_in) as url:
        found = Served(url, stand_in, model, settings)
        yield found
        for teacher in found.built:
            teacher.kdtool_close()
