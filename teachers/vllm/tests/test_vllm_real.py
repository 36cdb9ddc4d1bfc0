"""A real vLLM with tiny models: as a teacher, it has the model's distribution; as a sampler, the student's newest weights.

A readout without the final norm is refused.

It needs vLLM's environment, of some gigabytes: KDTOOL_VLLM names its Python, else it is looked for in the user's cache.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import kdtool
import pytest
import torch
from kdtool_teacher_vllm import VLLM
from kdtool_teacher_vllm.command import server_command
from kdtool_teacher_vllm.rollouts import RolloutServer
from kdtool_testing.tiny_models import packed_batch, save_tiny
from kdtool_torch import chosen_tokens
from kdtool_transformers import open_model
from test_vllm_kills import free_port

PYTHON = Path(os.environ.get("KDTOOL_VLLM", "~/.cache/kdtool/vllm/bin/python")).expanduser()
LOGITS = kdtool.SignalRequest(frozenset({"logits"}))
TRAINING = """
import os
import sys

from kdtool._cli.command_line import main

os.chdir(sys.argv[1])
os.environ["KDTOOL_STORE"] = "store"
sys.argv = ["kdtool", "run", "recipe.yaml", "--offline"]
main()
"""
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
    with running([sys.executable, "-P", "-m", "kdtool", *words], url, folder / "log"):
        yield settings


@contextmanager
def running(command: list[str], url: str, log: Path) -> Iterator[None]:
    """Run a server, from the time that it answers."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **CPU})
        try:
            end = time.monotonic() + 600
            while not is_ready(url):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(1)
            yield
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


INTERPRETED = """
import os

os.environ["TRITON_INTERPRET"] = "1"
import triton.backends


class Driver:
    @staticmethod
    def is_active():
        return True


triton.backends.backends["cpu"] = type("Backend", (), {"driver": Driver, "compiler": None})
"""
"""vLLM's second model runner needs Triton, whose interpreter runs kernels on a CPU; vLLM asks for a backend called cpu."""


def test_scores_of_chosen_tokens_are_the_model_s(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {key: value for key, value in settings.items() if key != "folder"}
    batch = packed_batch()
    ids = torch.arange(16, dtype=torch.int32).expand(int((batch.labels != -100).sum()), 16).clone()
    ids[::3, 1] = -1
    want = kdtool.SignalRequest(frozenset({"chosen"}), chosen=ids)
    with pytest.raises(kdtool.UsageError, match=r"does not score chosen tokens: .*--enable-scale-out"):
        VLLM(VLLM.Config(**given, chosen="server")).kdtool_signal(batch, want)
    (tmp_path / "sitecustomize.py").write_text(INTERPRETED)
    config = VLLM.Config(**{**given, "url": f"http://127.0.0.1:{free_port()}/v1"}, chosen="server")
    command = [*server_command(config, 4, 512, 0, tmp_path, str(PYTHON)), "--enforce-eager"]  # nothing compiles for it
    environment = [f"PYTHONPATH={tmp_path}", "VLLM_USE_V2_MODEL_RUNNER=1"]
    with running(["env", *environment, *command], config.urls[0], tmp_path / "log"):
        teacher = VLLM(config)
        found = teacher.kdtool_signal(batch, want).chosen
        teacher.kdtool_close()
    model = open_model(given["model"])
    with torch.no_grad():
        lazy = kdtool.LazyLogits(model.backbone(batch, kdtool.SignalRequest()).last, model.head)
    assert found is not None
    expected = chosen_tokens(lazy, want).log_probabilities
    torch.testing.assert_close(found.log_probabilities, expected, rtol=1e-5, atol=1e-5)
    assert "from those of transformers" in capsys.readouterr().out


def test_it_samples_with_the_weights_that_a_training_hands_over(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    # vLLM on CPUs keeps the old head of tied embeddings.
    shape: dict[str, Any] = {
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    save_tiny(tmp_path / "student", **shape)
    url = f"http://127.0.0.1:{free_port()}/v1"
    recipe = {
        "name": "run",
        "corpus": {"use": "python-source"},
        "rows": {"use": "packed", "length": 64, "maximum_tokens": 8192},
        "teacher": {"use": "causal-lm", "model": str(tmp_path / "model")},
        "signals": False,
        "student": {"use": "pretrained", "model": str(tmp_path / "student")},
        "trainer": {
            "use": "standard",
            "dtype": "float32",
            "on_policy": {"fraction": 1, "tokens": 16, "samples": 2, "top_p": 0.9, "sampler": "vllm", "every": 2},
            "rollouts": {"url": url, "folder": str(tmp_path / "rollouts")},
        },
        "train": {"losses": {"reverse-kl": {}}, "steps": 6},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    with (tmp_path / "out").open("wb") as out:
        training = subprocess.Popen([sys.executable, "-P", "-c", TRAINING, str(tmp_path)], stdout=out, stderr=out)
    try:
        while not (shown := re.search(r"VLLM_SERVER_DEV_MODE=1 (vllm .*)", (tmp_path / "out").read_text())):
            assert training.poll() is None, (tmp_path / "out").read_text()
            time.sleep(1)
        words = shlex.split(shown[1])
        command = ["env", "VLLM_SERVER_DEV_MODE=1", str(PYTHON.with_name("vllm")), *words[1:]]
        with running(command, url, tmp_path / "log"):
            assert training.wait(600) == 0, (tmp_path / "out").read_text()
            student = open_model(tmp_path / "rollouts" / "current")
            server = RolloutServer(url, None, offline=True)
            ids = student.tokenizer.encode("def f(x):\n    return x")
            with torch.no_grad():
                expected = student.model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            own = expected.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(server.log_probabilities(ids)), own, rtol=0, atol=1e-4)
            prompts, ends = [ids, ids[:3]], student.tokenizer.end_ids
            likeliest = server.generate(prompts, [8, 5], 0.0, 1.0, [0, 0], ends)
            assert likeliest == student.generate(prompts, [8, 5], 0.0, [0, 0])
            drawn = [server.generate(prompts, [8, 5], 1.0, 0.9, [seed, seed], ends) for seed in (1, 1, 2)]
            assert drawn[0] == drawn[1] != drawn[2]
            server.close()
    finally:
        training.kill()
        training.wait()
    folders = [each.name for each in (tmp_path / "rollouts").iterdir() if not each.is_symlink()]
    assert [name.partition("-")[2] for name in folders] == ["4"], "the last hand-over is that before steps 5 and 6"
