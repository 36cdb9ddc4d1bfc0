"""A real vLLM with a tiny model: its distribution is the model's, and a readout without the final norm is refused.

It needs vLLM's environment, of some gigabytes: KDTOOL_VLLM names its Python, else it is looked for in the user's cache.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kdtool
import pytest
from kdtool_teacher_vllm import VLLM
from kdtool_teacher_vllm._readout import Readout
from kdtool_testing.tiny_models import packed_batch, save_tiny
from test_vllm_kills import free_port

PYTHON = Path(os.environ.get("KDTOOL_VLLM", "~/.cache/kdtool/vllm/bin/python")).expanduser()
LOGITS = kdtool.SignalRequest(frozenset({"logits"}))
CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.with_name("vllm").exists(),
        reason="vLLM is not installed where KDTOOL_VLLM says; the stand-in is tested",
    ),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings of a teacher whose server runs."""
    folder = tmp_path_factory.mktemp("real")
    save_tiny(folder / "model", hidden_size=128, num_attention_heads=2, num_key_value_heads=2)
    url = f"http://127.0.0.1:{free_port()}/v1"
    settings: dict[str, Any] = {
        "url": url, "model": str(folder / "model"), "dtype": "float32", "folder": str(folder / "states"),
    }  # fmt: skip
    recipe = {
        "corpus": {"use": "python-source"},
        "rows": {"use": "packed", "length": 64},
        "teacher": {"use": "vllm", **settings},
        "student": {"use": "gpt", "layers": 1, "hidden": 32, "heads": 2},
        "trainer": {"use": "standard"},
        "train": {"losses": {"forward-kl": {}}, "steps": 1},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    words = ["teacher", "serve", str(folder / "recipe.yaml"), "--python", str(PYTHON), "--run"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kdtool", *words], stdout=log, stderr=log, env={**os.environ, **CPU}
        )
        try:
            end = time.monotonic() + 600
            while not is_ready(url):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end
                time.sleep(1)
            yield settings
        finally:
            process.terminate()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_served_distribution_is_the_model_s(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    teacher = VLLM(VLLM.Config(**settings))
    teacher.kdtool_signal(packed_batch(), LOGITS)
    teacher.kdtool_close()
    found = re.search(r"mean KL (\S+) nats per token from transformers", capsys.readouterr().out)
    assert found
    assert float(found[1]) <= 1e-6


def test_a_readout_without_the_norm_is_refused(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Readout, "forward", lambda _, states: states)
    teacher = VLLM(VLLM.Config(**settings))
    with pytest.raises(kdtool.UsageError, match="The final norm is missing"):
        teacher.kdtool_signal(packed_batch(), LOGITS)
    teacher.kdtool_close()
