"""A finished run with two exported files, and a stand-in of the Hub that this process publishes to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import kdtool
import pytest
from kdtool._results.files import write_results
from kdtool_testing import make_results

sys.path.insert(0, str(Path(__file__).parent))  # for the stand-in, also in other tests of the repository

from hub_stand_in import TOKEN, Hub

CARD = "---\nlicense: apache-2.0\nlibrary_name: {}\npipeline_tag: text-generation\ntags: [code]\n---\n# small\n\nA student.\n"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kdtool.Results:
    """The results of `runs/small`, whose student was exported as a folder and as a file."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs" / "small")


def write_run(folder: Path, **changes: object) -> kdtool.Results:
    """Write a finished run with an exported folder and an exported file."""
    model, file = folder / "exports" / "safetensors-1" / "model", folder / "exports" / "gguf-2" / "small-q8_0.gguf"
    model.mkdir(parents=True)
    file.parent.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    for shard in (1, 2, 3):
        (model / f"model-0000{shard}-of-00003.safetensors").write_bytes(bytes([shard]) * 300_000)
    file.write_bytes(b"GGUF" + bytes(100_000))
    (file.parent / "artifact.json").write_text("{}", encoding="utf-8")
    size = sum(path.stat().st_size for path in model.iterdir())
    artifacts = (
        kdtool.Artifact(model, "safetensors", size, how_to_use=f"import x\nx({str(model)!r})", card=CARD.format("transformers")),
        kdtool.Artifact(file, "gguf", file.stat().st_size, "q8_0", f"llama-server -m {file}", CARD.format("llama.cpp")),
    )
    made = make_results(folder)
    student = replace(made.arms[0], artifacts=artifacts)
    results = replace(
        made,
        arms=(student, *made.arms[1:]),
        recipe={**made.recipe, "exporters": {"safetensors": {}, "gguf": {}}},
        **changes,  # type: ignore[arg-type]
    )
    write_results(results)
    return results


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, which huggingface_hub of this process takes for the Hub; its waits between trials are skipped."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(_http.time, "sleep", lambda _: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
