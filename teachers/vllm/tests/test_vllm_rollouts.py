"""On-policy text by a server with the student's weights: the same training as with the student's own text, also resumed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_teacher_openai.client import RefusedError
from kdtool_teacher_vllm.rollouts import RolloutServer
from test_vllm_kills import STAND_IN, free_port

STEPS = 6


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDTOOL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Served:
    """A stand-in that runs in another process, and a recipe whose student's text it writes."""

    def __init__(self, url: str, states: Path, model: Path, folder: Path) -> None:
        self.states = states
        self.folder = folder
        self.recipe: dict[str, Any] = {
            "name": "served",
            "corpus": {"use": "python-source"},
            "rows": {"use": "packed", "length": 48, "maximum_tokens": 4096},
            "teacher": {"use": "causal-lm", "model": str(model)},
            "signals": False,
            "student": {"use": "gpt", "layers": 1, "hidden": 32, "heads": 2},
            "trainer": {
                "use": "standard",
                "batch": 4,
                "dtype": "float32",
                "on_policy": {"fraction": 1, "tokens": 12, "samples": 2, "temperature": 1.3, "top_p": 0.9},
            },
            "train": {"losses": {"reverse-kl": {}}, "steps": STEPS},
        }
        self.by_server: dict[str, Any] = {
            "trainer.on_policy.sampler": "vllm",
            "trainer.rollouts": {"url": url, "folder": str(folder)},
        }

    def train(self, name: str, **settings: Any) -> bytes:
        """Return the weights of a run by the server; keys have `__` for dots."""
        more = {key.replace("__", "."): value for key, value in settings.items()}
        return weights(kdtool.run(self.recipe, {"name": name, **self.by_server, **more}))

    @property
    def requests(self) -> list[dict[str, Any]]:
        lines = (self.states / "requests.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def loaded(self) -> list[Path]:
        return [Path(each["loaded"]) for each in self.requests if "loaded" in each]

    @property
    def steps(self) -> list[int]:
        return [int(folder.name.partition("-")[2]) for folder in self.loaded]


def weights(results: kdtool.Results) -> bytes:
    return (results.arms[0].path / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    port, states = free_port(), tmp_path_factory.mktemp("server")
    # In another process: opening a model waits while this one trains.
    command = [sys.executable, "-P", str(STAND_IN), str(model), str(states), str(port), "4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        while not (states / "server.json").exists():
            assert process.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1", states
        process.kill()


@pytest.fixture
def served(server: tuple[str, Path], model: Path, tmp_path: Path) -> Served:
    url, states = server
    for file in ("requests.jsonl", "stale"):
        (states / file).unlink(missing_ok=True)
    return Served(url, states, model, tmp_path / "rollouts")


def test_it_learns_bit_for_bit_as_with_its_own_text(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    found = served.train("vllm")
    assert found == weights(kdtool.run(served.recipe, {"name": "own"}))
    assert served.steps == list(range(STEPS))
    drawn = [each for each in served.requests if "seed" in each]
    assert {(each["top_p"], each["temperature"]) for each in drawn} == {(0.9, 1.3)}
    assert len({each["seed"] for each in drawn}) == len(drawn)
    assert len({each["cache_salt"] for each in drawn}) == STEPS
    assert [path for path in served.folder.iterdir() if not path.is_symlink()] == [served.loaded[-1]]
    assert "Seeds are random.Random" in "".join(capsys.readouterr())


def train_until(
    served: Served, texts: int, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any]
) -> None:
    """Train with a server that fails after this number of micro-batches."""
    generate, left = RolloutServer.generate, [texts]

    def fail(self: RolloutServer, *args: Any) -> list[list[int]]:
        left[0] -= 1
        if left[0] < 0:
            raise kdtool.ServiceError("it was killed")
        return generate(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RolloutServer, "generate", fail)
        with pytest.raises(kdtool.ServiceError, match="it was killed"):
            served.train(name, **settings)


def test_weights_of_every_third_step_write_and_a_resumed_run_has_them_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"trainer__on_policy__every": 3, "trainer__checkpoint_every": 2}
    whole = served.train("whole", **settings)
    assert served.steps == [0, 3]
    assert whole != served.train("fresh")
    (served.states / "requests.jsonl").unlink()
    train_until(served, 4, monkeypatch, "killed", settings)
    assert served.train("killed", **settings) == whole
    assert served.steps == [0, 3, 3], "it resumes at step 4, with the weights of step 3"


def test_a_server_that_keeps_other_weights_is_refused(served: Served) -> None:
    (served.states / "stale").touch()
    with pytest.raises(kdtool.UsageError, match=r"differ from the student's by .* it did not load the weights"):
        served.train("stale")


def test_without_a_server_the_run_shows_how_to_start_one(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.by_server["trainer.rollouts"] |= {"url": "http://127.0.0.1:9/v1", "patience": 0}
    with pytest.raises(kdtool.ServiceError, match="cannot be reached"):
        served.train("none")
    shown = " ".join("".join(capsys.readouterr()).split())
    command = re.search(r"VLLM_SERVER_DEV_MODE=1 vllm serve (\S+) .*--dtype float32 .*--max-model-len 48", shown)
    assert command
    assert (Path(command[1]) / "model.safetensors").exists()


def test_a_server_that_refuses_to_load_is_explained(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RefusedError("404")

    monkeypatch.setattr("kdtool_teacher_openai.client.Server.post", refuse)
    with pytest.raises(kdtool.UsageError, match="VLLM_SERVER_DEV_MODE=1"):
        served.train("refused")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainer__rollouts": None}, "needs a server: set rollouts"),
        ({"trainer__on_policy__sampler": "student", "trainer__on_policy__every": 2}, "every is for sampler: vllm"),
        ({"trainer__rollouts__url": "https://api.openai.com/v1"}, "hosted service"),
        ({"train__transforms": {"lora": {"r": 2}}}, "frozen"),
    ],
)
def test_what_cannot_work_is_refused(served: Served, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(kdtool.UsageError, match=said):
        served.train("refused", **settings)
