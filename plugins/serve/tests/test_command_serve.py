"""The command: address, ready lines, errors and exit codes; and `--static`, which serves a folder's page to this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import kdtool
import pytest
from kdtool._cli import call
from kdtool._text import terminal
from kdtool_measuring import Priced
from kdtool_serve import command, server
from kdtool_serve.command import serve
from kdtool_serve.engine import Engine, Workers
from kdtool_testing import CommandConformance
from scripted import ScriptedModels, StreamingRuntime


class TestServe(CommandConformance):
    command = serve
    entry_point = "serve"


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from scripted import ScriptedModels, StreamingRuntime
from contextlib import contextmanager
import kdtool

@contextmanager
def open_models(model, *, out, offline):
    models = ScriptedModels({{"student": StreamingRuntime(lambda _: "word " * 500, seconds=0.05)}})
    yield models

kdtool.open_models = open_models
from kdtool._cli import main
sys.argv = ["kdtool", *sys.argv[1:]]
main()
"""


def _start(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    script = tmp_path / "serve.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-P", str(script), "serve", "model", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )


@pytest.mark.parametrize("stops", [("SIGINT",), ("SIGTERM",), ("SIGINT", "SIGINT")], ids=" ".join)
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Windows end the process at once")
def test_it_says_where_it_is_and_ends_at_ctrl_c_while_it_answers(tmp_path: Path, stops: tuple[str, ...]) -> None:
    with _start(tmp_path, "--port", "0") as process:
        assert process.stdout
        page, api = process.stdout.readline(), process.stdout.readline()
        url = page.removeprefix("page  ").strip().rstrip("/")
        assert url.startswith("http://127.0.0.1:")
        assert api.startswith(f"API   {url}/v1  (student)")
        body = {"prompt": "x", "max_tokens": 500, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=20) as response:
            next(response.iter_bytes())
            began = time.perf_counter()
            for stop in stops:
                process.send_signal(signal.Signals[stop])
                time.sleep(0.05)
            assert process.wait(20) == 0
        assert time.perf_counter() - began < 15  # the answer would take 25 seconds
        assert process.stderr
        assert process.stderr.read().splitlines() == ["opening model …", "loading student …"]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - as AirPlay of macOS
def test_a_port_in_use_is_refused_if_it_was_asked_for_and_else_the_next_one_is_taken(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind((address, 0))
        other.listen()
        taken = other.getsockname()[1]
        assert call(["serve", "model", "--port", str(taken)]) == 2
        assert f"--port {taken}: it is in use" in capsys.readouterr().err
        monkeypatch.setattr(server, "FIRST_PORT", taken)
        with server.listen("127.0.0.1", None) as found:
            assert found.getsockname()[1] > taken


@pytest.mark.parametrize(
    "arguments_and_words",
    [
        ("--host 0.0.0.0", "--host 0.0.0.0: others may reach the server only with a key"),
        ("--key-variable MINE", "MINE is not set"),
        ("--host 192.0.2.1 --key-variable GIVEN", "--host 192.0.2.1: this machine cannot listen there"),
    ],
)
def test_others_reach_the_server_only_with_a_key(
    arguments_and_words: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = arguments_and_words
    monkeypatch.delenv("KDTOOL_SERVE_KEY", raising=False)
    monkeypatch.setenv("GIVEN", "key")
    assert call(["serve", "model", *arguments.split()]) == 2
    assert words in capsys.readouterr().err


def test_what_is_not_a_finished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "begun").mkdir()
    for name in ("absent", "begun"):
        assert call(["serve", name, "--port", "0", "--out", str(tmp_path)]) == 2
        assert f"'{name}' is not a model, nor a finished run" in capsys.readouterr().err


class _Priced(kdtool.Teacher, Priced):
    pass


def _choose(names: Sequence[str], monkeypatch: pytest.MonkeyPatch, *, paid: bool) -> list[str]:
    monkeypatch.setattr(kdtool, "list_plugins", lambda group: ["priced"])
    monkeypatch.setattr(kdtool, "load_plugin", lambda group, name: _Priced)
    models = ScriptedModels({"student": StreamingRuntime(), "teacher": StreamingRuntime()})
    record = kdtool.ComponentRecord("teacher", "teacher", "priced", "dist", "1", {})
    models.results = SimpleNamespace(components=[record], exported_files=list)
    return command._choose(models, tuple(names), paid=paid)  # type: ignore[arg-type]


def test_a_teacher_that_costs_money_is_offered_only_if_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _choose([], monkeypatch, paid=False) == ["student"]
    assert "not offered: teacher, because each answer costs money; add --paid" in capsys.readouterr().err
    assert _choose([], monkeypatch, paid=True) == ["student", "teacher"]
    assert _choose(["teacher", "student"], monkeypatch, paid=True) == ["teacher", "student"]
    with pytest.raises(kdtool.UsageError, match="no model is left to offer"):
        _choose(["teacher"], monkeypatch, paid=False)
    with pytest.raises(kdtool.UsageError, match=r"--model techer: there is no such model; there are student, teacher"):
        _choose(["techer"], monkeypatch, paid=False)


@pytest.mark.parametrize("columns", [None, 60, 80, 100])
def test_lines_of_the_server_end_at_words_in_a_terminal(
    columns: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "width_of", lambda _: columns)
    name = "owner/" + "x" * 110
    engine = Engine(name, StreamingRuntime, queue=1, loader=Workers("none", 0))
    engine._warn(SimpleNamespace(continued=True))  # type: ignore[arg-type]
    first, *others = capsys.readouterr().err.splitlines()
    assert (first == name and bool(others)) == (columns is not None)
    assert all(len(line) <= (columns or 0) for line in others)


@pytest.mark.parametrize("command", [("serve",), ("generate", "x = "), ("generate", "--json", "x = ")], ids=" ".join)
def test_a_name_is_refused_before_torch_is_imported(command: tuple[str, ...], tmp_path: Path) -> None:
    name, *rest = command
    script = "import sys; from kdtool._cli import call; print(call(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, name, "nothing", *rest],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout == "2 False\n"
    assert "'nothing' is not a model, nor a finished run" in done.stderr


@pytest.mark.parametrize(
    ("files", "first"),
    [({"a": (5, "opens"), "b": (3, "opens")}, "b"), ({"a": (5, "opens"), "b": (3, "closed"), "c": (2, "absent")}, "a"),
     ({"a": (9, "opens")}, "student"), ({"a": (0, "opens")}, "student"), ({}, "student")],
)  # fmt: skip
def test_the_smallest_file_that_opens_answers_by_default_and_is_named(
    files: dict[str, tuple[int, str]], first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    classes = {"opens": type("Opens", (kdtool.Exporter,), {"kdtool_open": lambda *_: None}), "closed": kdtool.Exporter}
    monkeypatch.setattr(kdtool, "list_plugins", lambda group: list(classes))
    monkeypatch.setattr(kdtool, "load_plugin", lambda group, name: classes[name])
    models: Any = ScriptedModels({name: StreamingRuntime() for name in ("student", *files)})
    for name, (size, _) in {"student": (8, ""), **files}.items():
        (path := tmp_path / f"{name}.gguf").write_bytes(b"x" * size * 1_000_000)
        models.subjects[name] = kdtool.Subject(name, "artifact" if name in files else "student", path)
    exported = [SimpleNamespace(arm=name, artifact=SimpleNamespace(format=kind)) for name, (_, kind) in files.items()]
    models.results = SimpleNamespace(components=[], exported_files=lambda: exported)
    assert command._choose(models, (), paid=True)[0] == first
    named = (
        ""
        if first == "student"
        else f"answers by default: {first}, the student's smallest file ({files[first][0]} MB)\n"
    )
    assert capsys.readouterr().err == named
    assert command._choose(models, ("student",), paid=True) == ["student"]


def test_a_draft_is_for_teachers_on_offer() -> None:
    models: Any = ScriptedModels({"student": StreamingRuntime(), "teacher": StreamingRuntime()})
    with pytest.raises(kdtool.UsageError, match="none is on offer"):
        command._with_draft(models, "student", ["student"])
    drafted = command._with_draft(models, "student", ["student", "teacher"])
    assert drafted.open("student") is models.open("student")
    with pytest.raises(kdtool.UsageError, match="the target of speculative decoding is not a model of transformers"):
        drafted.open("teacher")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Windows end the process at once")
@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_it_serves_the_page_until_ctrl_c(host: str, shown: str, tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "index.html").write_text("<title>student</title>", encoding="utf-8")
    (tmp_path / "runtime" / "ort.mjs").write_text("export {};", encoding="utf-8")
    (tmp_path / "runtime" / "ort.wasm").write_bytes(b"\0asm")
    command = [sys.executable, "-m", "kdtool", "serve", "--static", str(tmp_path), "--port", "0", "--host", host]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        url = process.stdout.readline().removeprefix("page  ").split()[0]
        assert url.startswith(f"http://{shown}:")
        page = httpx.get(url, timeout=60)
        assert page.text == "<title>student</title>"
        kinds = {"": "text/html", "runtime/ort.mjs": "text/javascript", "runtime/ort.wasm": "application/wasm"}
        for path, kind in kinds.items():
            answer = httpx.get(url + path, timeout=60)
            assert answer.headers["content-type"].partition(";")[0] == kind
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        assert httpx.get(url + "../secret", timeout=60).status_code == 404
        assert httpx.get(url, headers={"Host": "evil.example"}, timeout=60).status_code == 400
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_folder_without_a_page_and_other_machines_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["serve", "--static", str(tmp_path)]) == 2
    assert f"--static: {tmp_path} has no index.html; expected a folder that the exporter web" in capsys.readouterr().err
    (tmp_path / "index.html").write_text("", encoding="utf-8")
    assert call(["serve", "--static", str(tmp_path), "--host", "0.0.0.0"]) == 2  # noqa: S104
    assert "--host 0.0.0.0: --static serves this machine only; expected 127.0.0.1" in capsys.readouterr().err
