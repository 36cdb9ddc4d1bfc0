"""Whole runs that learn a teacher's answers: of a folder, of a server, odd ones, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kdtool
import pytest
import torch
from kdtool_export.gguf.files import write_gguf
from kdtool_testing.servers.llama_cpp import llama_cpp_server
from kdtool_transformers import open_model
from whole_runs import lines, path_of, without

UNUSED = ("corpus", "signals", "control", "exporters")


@pytest.fixture(scope="module")
def lively(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the teacher's tokenizer whose likeliest tokens differ from place to place."""
    model = open_model(teacher_folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.model.parameters():
        torch.nn.init.normal_(parameter, std=0.25, generator=generator)
    folder = tmp_path_factory.mktemp("lively")
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def served(lively: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A teacher that is the lively model behind a llama.cpp server."""
    file = write_gguf(open_model(lively, dtype=torch.float32), tmp_path_factory.mktemp("served") / "lively.gguf")
    with llama_cpp_server(file, "tiny", context=256) as url:
        yield {"use": "openai", "url": url, "model": "tiny", "licence": "mit", "retries": 1}


def beginning(line: dict[str, Any]) -> str:
    """The first letters of an answer; bytes that are no text are shown differently."""
    return "".join(letter for letter in line["completion"] if letter.isascii())[:4]


@pytest.mark.slow
def test_answers_are_learned_whoever_gives_them(
    recipe: dict[str, Any], lively: Path, served: dict[str, Any], other_teacher_folder: Path
) -> None:
    """The student has another tokenizer than the teachers."""
    library = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 2}
    answers = {"use": "answers", "corpus": "corpora.library", "prefix_lines": 3, "max_tokens": 12}
    teachers = {"folder": {**recipe.pop("teacher"), "model": str(lively)}, "server": {**served, "api": "completions"}}
    recipe |= {
        "corpora": {"library": library, "answers": {**answers, "ask": "teachers.folder", "keep_truncated": True}},
        "teachers": teachers,
        "rows": {"use": "packed", "length": 32, "maximum_tokens": 256},
        "student": {"use": "pretrained", "model": str(other_teacher_folder)},
        "train": {"losses": {"ce": {}}, "steps": 2},
        "evaluators": {"perplexity": {"limit": 2, "characters": 200}},
    }
    asked = without(recipe, *UNUSED)
    results = {name: kdtool.run(asked, {"corpora.answers.ask": f"teachers.{name}"}) for name in teachers}
    folder, server = (lines(path_of(results[name], "text") / "train.jsonl") for name in teachers)
    assert len(folder) == len(server) == 4
    for mine, theirs in zip(folder, server, strict=True):
        assert (mine["id"], mine["prompt"]) == (theirs["id"], theirs["prompt"])
        assert mine["source"] == "answers of teachers.folder"
        assert theirs["source"] == "answers of teachers.server"
        # The same weights, once in transformers and once in llama.cpp, which rounds otherwise.
        assert beginning(mine) == beginning(theirs)
    held_out = lines(path_of(results["server"], "text") / "test.jsonl")
    assert all("text" in line for line in held_out), "held-out text is as it was"
    measured = {found.subject for found in results["server"].measurements}
    assert measured == {"teachers.folder", "base", "student"}, "a server is not opened"
    again = kdtool.plan(asked, {"corpora.answers.ask": "teachers.server"})
    assert {stage.action for stage in again} == {"reuse"}
    del asked["teachers"]["server"]["licence"]
    with pytest.raises(kdtool.RecipeError, match=r"which takes its text:\s+look up the licence of tiny, and name it"):
        kdtool.check(asked, {"corpora.answers.ask": "teachers.server"})


@pytest.mark.slow
def test_likeliest_tokens_of_a_server_are_learned_and_what_it_cannot_give_is_refused(
    recipe: dict[str, Any], served: dict[str, Any], lively: Path, other_teacher_folder: Path
) -> None:
    recipe |= {
        "teacher": {**served, "tokenizer": str(lively), "top_k": 20},
        "student": {"use": "pretrained", "model": str(lively)},
        "rows": {"use": "packed", "length": 24, "maximum_tokens": 96},
        "train": {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 2},
        "evaluators": {},
    }
    top = without(recipe, "signals", "control", "exporters")
    (report, *_) = kdtool.run(top).arms[0].histories["train"]
    assert abs(report.terms["forward-kl"].value) < 1e-3, "the student is the teacher still"

    teacher, softened = recipe["teacher"], {"forward-kl": {"temperature": 2.0}}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"train": {"losses": {"reverse-kl": {}}, "steps": 2}}, r"needs logits, but .* \(openai\) offers text, top-k"),
        ({"teacher": served}, r"needs logits or sampled or top-k, but .* offers text"),
        ({"teacher": {**teacher, "tokenizer": str(other_teacher_folder)}}, "the server's tokenizer is not"),
        ({"teacher": {**teacher, "model": "huge"}}, "does not serve the model 'huge', but tiny"),
        ({"train": {"losses": softened, "steps": 2}}, "temperature"),
    ]
    for changes, words in refused:
        with pytest.raises(kdtool.KdtoolError, match=words):
            kdtool.run({**top, **changes})


ANSWER = json.dumps({"choices": [{"message": {"content": "return x + 1\n" * 8}, "finish_reason": "stop"}]}).encode()
PROMPTS = 60


class Scripted:
    """Responses of a server as (status, body) by the prompt's text, and the prompts received."""

    def __init__(self, seconds: float) -> None:
        self.url, self.seconds = "", seconds
        self.odd: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []


@contextmanager
def serving(seconds: float = 0.0) -> Iterator[Scripted]:
    """Serve scripted answers, each after some seconds."""
    scripted = Scripted(seconds)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, b'{"data": [{"id": "m"}]}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            time.sleep(scripted.seconds)
            self._send(*scripted.odd.get(prompt, (200, ANSWER)))
            scripted.asked.append(prompt)

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        scripted.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield scripted
    finally:
        server.shutdown()
        server.server_close()


def asking(scripted: Scripted, student: Path, prompts: int = PROMPTS) -> dict[str, Any]:
    """Return a recipe that asks a server for answers."""
    Path("prompts.jsonl").write_text("".join(f'{{"prompt": "p{number}"}}\n' for number in range(prompts)), "utf-8")
    return {
        "name": "asking",
        "teacher": {"use": "openai", "url": scripted.url, "model": "m", "licence": "mit", "retries": 0},
        "corpus": {"use": "answers", "prompts": ["prompts.jsonl"]},
        "rows": {"use": "packed", "length": 32},
        "student": {"use": "pretrained", "model": str(student)},
        "trainer": {"use": "standard", "batch": 1},
        "train": {"losses": {"ce": {}}, "steps": 1},
        "control": False,
        "trackers": {},
    }


def test_odd_answers_cost_themselves_alone_and_nothing_is_asked_again_for_other_settings(
    teacher_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEW_API_KEY", "k")
    with serving() as scripted:
        monkeypatch.setenv("KDTOOL_TRUST_URL", scripted.url)
        recipe = asking(scripted, teacher_folder)
        scripted.odd = {
            "p3": (200, ANSWER.replace(b"x + 1", b"x \xe9 1")),
            "p5": (200, ANSWER.replace(b"x + 1", rb"x \ud83d 1")),
            "p7": (200, b"[" * 100_000),
        }
        results = kdtool.run(recipe)
        assert len(scripted.asked) == PROMPTS
        assert f"{PROMPTS - 2} answers of teacher; left out: 2 refused" in "".join(capsys.readouterr())
        learned = {line["id"]: line["completion"] for line in lines(path_of(results, "text") / "train.jsonl")}
        assert "return x \ufffd 1" in learned["prompts.jsonl:6"]
        scripted.asked, scripted.odd = [], {}
        settings = {"licence": "apache-2.0", "tokenizer": str(teacher_folder), "key_variable": "NEW_API_KEY"}
        for key, value in settings.items():
            kdtool.run(recipe, {f"teacher.{key}": value})
        assert set(scripted.asked) <= {"p3", "p5", "p7"}, "what was refused is asked again"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_killed_run_asks_for_no_answer_that_it_has(teacher_folder: Path) -> None:
    code = "import json, sys, kdtool; kdtool.run(json.loads(sys.argv[1]))"
    with serving(seconds=0.3) as scripted:
        recipe = asking(scripted, teacher_folder, prompts=8)
        recipe["teacher"]["concurrency"] = 1
        process = subprocess.Popen([sys.executable, "-c", code, json.dumps(recipe)], stderr=subprocess.DEVNULL)
        while len(scripted.asked) < 4 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        (journal,) = Path("store", "text").glob("*.partial/answers/*.jsonl")
        kept = journal.read_text(encoding="utf-8").count("\n")
        assert kept >= 3
        results = kdtool.run(recipe)
    assert len(lines(path_of(results, "text") / "train.jsonl")) == 8
    assert len(scripted.asked) <= 8 + 2, "what was under way when the process died, and nothing else, is asked again"
    assert len(scripted.asked) - len(set(scripted.asked)) <= 8 - kept
    assert [(licensed.component, licensed.transfers) for licensed in results.licences] == [("teacher", ("text",))]
