"""A published student: what a reader finds in the repository, and every snippet of its card that a program here can run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
from huggingface_hub import ModelCard, ModelCardData

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins" / "export" / "tests" / "push"))

from hub_stand_in import TOKEN, Hub

pytestmark = pytest.mark.slow

STUDENT = "someone/small"


@pytest.fixture(scope="module")
def published(small_recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """The stand-in with the published student, and a folder in which a reader works."""
    folder = tmp_path_factory.mktemp("published")
    recipe = {
        **small_recipe,
        "train": {**small_recipe["train"], "steps": 2},
        "control": None,
        "exporters": {"safetensors": {}, "gguf": {}},
        "evaluators": {"perplexity": {"documents": 3, "characters": 400}},
    }
    kdtool.run(recipe, out=folder / "runs", store=folder / "store")
    with Hub() as hub:
        reader = folder / "reader"
        reader.mkdir()
        _run(hub, folder, "-m", "kdtool", "push", "small", "--yes", "--public")
        yield hub, reader


def _run(hub: Hub, folder: Path, *arguments: str) -> str:
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **own, "HF_TOKEN": TOKEN},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _code(hub: Hub, heading: str) -> str:
    """Return the first block of code below a heading of the card."""
    card = hub.files(STUDENT)["README.md"].decode()
    found = re.search(rf"^### {re.escape(heading)}.*?^```\w+\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    assert found, f"the card lacks {heading}"
    return found[1]


def test_the_card_has_what_the_run_measured(published: tuple[Hub, Path]) -> None:
    files = published[0].files(STUDENT)
    card = ModelCard(files["README.md"].decode())
    assert isinstance(card.data, ModelCardData)
    assert card.data.eval_results
    assert card.data.library_name == "transformers"
    assert "| `small" in card.text or "| `model.gguf`" in card.text
    assert str(published[1].parent) not in card.text


def test_the_cards_beside_the_files_are_complete_too(published: tuple[Hub, Path]) -> None:
    cards = sorted(published[1].parent.glob("runs/small/exports/**/README.md"))
    assert len(cards) == 3, "of each file, and of the folder's link"
    for card in cards:
        text = card.read_text(encoding="utf-8")
        assert "| perplexity, per token, lower is better |" in text
        assert "model-index:" in text
        assert str(published[1].parent) not in text


def test_transformers_opens_the_repository_by_its_name(published: tuple[Hub, Path]) -> None:
    hub, reader = published
    code = _code(hub, "transformers")
    assert f"folder = '{STUDENT}'" in code
    assert "def fibonacci(n):" in _run(hub, reader, "-c", code)


def test_the_downloaded_file_runs_in_llama_cpp(published: tuple[Hub, Path]) -> None:
    hub, reader = published
    code = "import sys; from huggingface_hub.cli.hf import main; sys.argv[0] = 'hf'; main()"
    _run(hub, reader, "-c", code, "download", STUDENT, "--local-dir", "small")
    assert f"hf download {STUDENT} --local-dir small" in hub.files(STUDENT)["README.md"].decode()
    assert _run(hub, reader / "small", "-c", _code(hub, "llama.cpp in Python")).strip()
    start = (reader / "small" / "Modelfile").read_text(encoding="utf-8").splitlines()[0]
    assert (reader / "small" / start.removeprefix("FROM ")).is_file()
