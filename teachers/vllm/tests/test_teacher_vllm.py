"""The teacher on a stand-in with a tiny model's real states: the suite, the gate, failing servers, companion, command."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import kdtool
import pytest
import torch
from click.testing import CliRunner
from kdtool_teacher_vllm import VLLM
from kdtool_teacher_vllm._served import Readout, load_readout
from kdtool_teacher_vllm.command import SERVER
from kdtool_teacher_vllm.command import teacher as command
from kdtool_testing import CommandConformance, TeacherConformance, make_run
from kdtool_testing.tiny_models import packed_batch, save_tiny
from kdtool_transformers import Source, TransformersModel, outline_of
from torch import Tensor
from vllm_stand_in import Served

LOGITS = kdtool.SignalRequest(frozenset({"logits"}))
BOTH = kdtool.SignalRequest(frozenset({"logits", "hidden"}), (0, 2))


def own(model: TransformersModel, batch: kdtool.Batch) -> kdtool.ModelOutputs:
    with torch.no_grad():
        return model.backbone(batch, BOTH)


class TestVLLM(TeacherConformance):
    component = VLLM
    entry_point = "vllm"
    settings: ClassVar = {"url": "http://127.0.0.1:1/v1", "model": "owner/name"}
    served: ClassVar[Served]

    @pytest.fixture(autouse=True)
    def _server(self, served: Served) -> None:
        type(self).served = served

    def prepare(self, folder: Path) -> Mapping[str, Any]:
        states = str(self.served.stand_in.folder)
        return {
            "url": self.served.url,
            "model": str(self.served.model),
            "dtype": "float32",
            "layers": [0, 2],
            "folder": states,
        }


def test_signals_are_the_model_s_own(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, batch = served.build(), packed_batch()
    signal, expected = teacher.kdtool_signal(batch, BOTH), own(served.stand_in.model, batch)
    assert signal.lazy is not None
    torch.testing.assert_close(signal.lazy.hidden, expected.last, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(signal.lazy.head.weight, served.stand_in.model.head.weight)
    for layer in (0, 2):
        torch.testing.assert_close(signal.hidden[layer], expected.hidden[layer], rtol=1e-5, atol=1e-5)
    assert not list(served.stand_in.folder.glob("*.safetensors*")), "what was read is deleted"
    with pytest.raises(kdtool.UsageError, match=r"set layers: \[0, 1, 2\]"):
        teacher.kdtool_signal(batch, kdtool.SignalRequest(frozenset({"hidden"}), (1,)))
    teacher.kdtool_close()
    shown = capsys.readouterr().out
    assert "nats per token from transformers" in shown
    assert "from the server's own" in shown
    assert "tokens/s" in shown


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma2", "granite", "cohere", "starcoder2"])
def test_final_norm_and_head_of_each_family_are_found(family: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path, family)
    read = load_readout(outline_of(model.model.config, model.tokenizer), Source(tmp_path), torch.float32, offline=True)
    batch, last = packed_batch(), model.facts.layers - 1
    with torch.no_grad():
        outputs = model.backbone(batch, kdtool.SignalRequest(frozenset({"hidden"}), (last,)))
    torch.testing.assert_close(read(outputs.hidden[last]), outputs.last)
    torch.testing.assert_close(read.head.logits(outputs.last), model.head.logits(outputs.last))


def leave_out_the_norm(served: Served, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Readout, "forward", lambda _, states: states)


def return_other_states(served: Served, patch: pytest.MonkeyPatch) -> None:
    served.stand_in.spoil = lambda states: states * torch.linspace(1, 2, states.shape[-1])


def swap_layers(served: Served, patch: pytest.MonkeyPatch) -> None:
    served.stand_in.spoil = lambda states: states[:, [1, 0, 2]]


@pytest.mark.parametrize("reference", ["weights", "server"])
@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        (leave_out_the_norm, "give another distribution than its model"),
        (return_other_states, "give another distribution than its model"),
        (swap_layers, "other states for layer 0"),
    ],
)
def test_states_of_another_distribution_are_refused(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[Served, pytest.MonkeyPatch], None],
    cause: str,
    reference: str,
) -> None:
    if reference == "server" and mistake is swap_layers:
        return  # only the weights know other layers
    teacher = served.build(reference=reference)
    mistake(served, monkeypatch)
    with pytest.raises(kdtool.UsageError, match=cause):
        teacher.kdtool_signal(packed_batch(), LOGITS)


@pytest.mark.parametrize(
    ("fact", "value"), [("dtype", "bfloat16"), ("quantization", "fp8"), ("layer_ids", [1, 3]), ("revision", "abc")]
)
def test_a_server_started_otherwise_is_refused(served: Served, fact: str, value: Any) -> None:
    served.stand_in.facts[fact] = value
    served.stand_in.describe()
    teacher = served.build(**({"revision": "main"} if fact == "revision" else {}))
    teacher._source = Source(served.model)  # a folder has no revision
    with pytest.raises(kdtool.UsageError, match=f"has {fact} .*kdtool teacher serve"):
        teacher.kdtool_signal(packed_batch(), LOGITS)


def test_identity_names_all_that_decides_what_states_are(served: Served, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    base = served.build().kdtool_identity(run)
    for setting, value in (("dtype", "bfloat16"), ("quantisation", "fp8"), ("lora", "adapter")):
        assert served.build(**{setting: value}).kdtool_identity(run) != base
    others: tuple[dict[str, Any], ...] = ({"url": "http://127.0.0.1:9/v1"}, {"concurrency": 2}, {"folder": tmp_path})
    for settings in others:
        assert served.build(**settings).kdtool_identity(run) == base


def test_a_document_longer_than_the_server_allows_is_explained(served: Served) -> None:
    served.stand_in.facts["max_model_len"] = 140
    teacher = served.build()
    with pytest.raises(kdtool.UsageError, match="greater --max-model-len, or use shorter rows"):
        teacher.kdtool_signal(packed_batch(1, 400), LOGITS)


def test_without_any_server_the_run_ends_and_says_what_to_do(served: Served) -> None:
    teacher = served.build(url="http://127.0.0.1:9/v1", patience=0.5)
    with pytest.raises(kdtool.ServiceError, match=r"no server answered for 0\.5 s.*run the same command again"):
        teacher.kdtool_signal(packed_batch(), LOGITS)


@pytest.mark.parametrize("damage", ["delete", "cut", "other"])
def test_lost_states_are_asked_for_again(served: Served, damage: str) -> None:
    teacher, batch = served.build(), packed_batch()
    teacher.kdtool_signal(batch, LOGITS)
    write, left = served.stand_in._write, [2]

    def spoil(path: Path, lock: Any, states: Tensor, ids: list[int]) -> None:
        with lock:
            if not left[0]:
                write(path, lock, states, ids)
                return
            left[0] -= 1
            write(path, path.open("a"), states, ids if damage != "other" else [1, *ids[1:]])
            if damage == "delete":
                path.unlink()
            elif damage == "cut":
                os.truncate(path, path.stat().st_size // 2)

    served.stand_in._write = spoil  # type: ignore[method-assign]
    signal = teacher.kdtool_signal(batch, LOGITS)
    assert signal.lazy is not None
    torch.testing.assert_close(signal.lazy.hidden, own(served.stand_in.model, batch).last, rtol=1e-5, atol=1e-5)
    assert left == [0]


@contextmanager
def companion(folder: Path, *, key: str = "") -> Iterator[str]:
    command = [sys.executable, "-I", str(SERVER / "kdtool_companion.py"), str(folder), "--port", "0"]
    environment = {**os.environ, "VLLM_API_KEY": key}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.kill()


def test_a_companion_sends_states_and_deletes_them(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    batch = packed_batch()
    with companion(served.stand_in.folder, key="secret") as url:
        teacher = served.build(folder=None, companion=url, key_variable="VLLM_API_KEY")
        signal = teacher.kdtool_signal(batch, BOTH)
        refused = served.build(folder=None, companion=url)
        with pytest.raises(kdtool.AuthenticationError, match="key_variable"):
            refused.kdtool_signal(batch, BOTH)
    assert signal.lazy is not None
    torch.testing.assert_close(signal.lazy.hidden, own(served.stand_in.model, batch).last, rtol=1e-5, atol=1e-5)
    assert not list(served.stand_in.folder.glob("*.safetensors*"))


def test_a_companion_shows_only_states(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_text("secret")
    (folder / "note.txt").write_text("secret")
    (folder / ".hidden.safetensors").write_text("secret")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "a.safetensors").write_text("states")
    names = (
        "../secret.safetensors", "..%2Fsecret.safetensors", "%2e%2e/secret.safetensors", "link.safetensors", "note.txt",
        ".hidden.safetensors", "/etc/passwd", "a.safetensors/../../secret.safetensors", "a.safetensors%00", "",
    )  # fmt: skip
    with companion(folder) as url:
        host, port = url.removeprefix("http://").split(":")
        for name in names:
            assert _raw(host, int(port), f"/states/{name}").startswith(b"HTTP/1.1 404"), name
        assert httpx.get(f"{url}/states/a.safetensors", trust_env=False).text == "states"
        assert httpx.get(f"{url}/states/a.safetensors", trust_env=False).status_code == 404
    assert (tmp_path / "secret.safetensors").exists()
    assert (folder / "link.safetensors").is_symlink()


def _raw(host: str, port: int, path: str) -> bytes:
    """Send a path as it is, which clients would normalise."""
    import socket

    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(4096)


def test_a_companion_for_other_machines_needs_a_key(tmp_path: Path) -> None:
    words = [str(SERVER / "kdtool_companion.py"), str(tmp_path), "--host", "0.0.0.0", "--port", "0"]  # noqa: S104 - refused
    command = [sys.executable, "-I", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, check=False, timeout=60)
    assert done.returncode == 2
    assert "set VLLM_API_KEY" in done.stderr


def test_text_and_scores_come_from_the_server(served: Served, tmp_path: Path) -> None:
    teacher = served.build()
    (answer,) = teacher.kdtool_answer([kdtool.Request("a", "write", 4)])
    assert answer.text == "pass"
    run = make_run(tmp_path)
    runtime = teacher.kdtool_open(run, kdtool.Subject("teacher", "teacher"))
    assert runtime is not None
    text = "def f(x):\n    return x\n" * 40
    with served.stand_in.model.open_runtime() as local:
        expected = [each.log_likelihood for each in local.score([text, "", "a"])]
    assert [each.log_likelihood for each in runtime.score([text, "", "a"])] == pytest.approx(expected, rel=1e-4)
    assert runtime.model is not None
    assert runtime.model.facts.layers == 4, "those who need the layers open the weights"
    runtime.close()


def recipe_of(served: Served, folder: Path) -> Path:
    recipe = {
        "corpus": {"use": "python-source"},
        "teacher": {"use": "vllm", "url": "http://127.0.0.1:8123/v1", "model": str(served.model), "layers": [0, 2]},
        "student": {"use": "gpt", "layers": 1, "hidden": 32, "heads": 2},
        "rows": {"use": "packed", "length": 64},
        "trainer": {"use": "standard"},
        "train": {"losses": {"forward-kl": {}}, "steps": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


class TestTeacherCommand(CommandConformance):
    command = command
    entry_point = "teacher"


def test_the_command_shows_how_to_start_the_server(served: Served, tmp_path: Path) -> None:
    path = recipe_of(served, tmp_path)
    shown = CliRunner().invoke(command, ["serve", str(path), "--states", str(tmp_path / "s")], catch_exceptions=False)
    server, second = map(shlex.split, shown.stdout.splitlines())
    assert server[:3] == [f"PYTHONPATH={SERVER}", "vllm", "serve"]
    settings = json.loads(server[server.index("--speculative-config") + 1])
    assert settings["draft_model_config"]["hf_config"] == {"eagle_aux_hidden_state_layer_ids": [1, 3, 4]}
    assert server[server.index("--port") + 1] == "8123"
    assert server[server.index("--dtype") + 1] == "bfloat16"
    context = served.stand_in.model.facts.context
    assert context is not None
    assert server[server.index("--max-model-len") + 1] == str(min(context, 8192))
    assert second[-4:] == ["--host", "127.0.0.1", "--port", "8124"]
    changed = CliRunner().invoke(
        command, ["serve", str(path), "--set", "teacher.dtype=float32"], catch_exceptions=False
    )
    assert "--dtype float32" in changed.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="vLLM needs Linux, and so does this command")
def test_a_stopped_command_stops_server_and_companion(served: Served, tmp_path: Path) -> None:
    environment, states = tmp_path / "vllm", tmp_path / "states"
    environment.mkdir()
    (environment / "python").symlink_to(sys.executable)
    server = environment / "vllm"
    server.write_text(
        f"#!{sys.executable}\nimport os, sys, time\nprint('server', os.getpid(), flush=True)\ntime.sleep(600)\n"
    )
    server.chmod(0o755)
    words = ["-m", "kdtool", "teacher", "serve", str(recipe_of(served, tmp_path)), "--states", str(states), "--run"]
    command = [sys.executable, "-P", *words, "--python", str(environment / "python")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = {line.split()[0]: line.split() for line in (process.stdout.readline(), process.stdout.readline())}
        process.terminate()
        assert process.wait(60) == 0
        assert not process.stdout.read(), "both have closed it"
    assert {*first} == {"server", "states"}
    with pytest.raises(ProcessLookupError):
        os.kill(int(first["server"][1]), 0)
