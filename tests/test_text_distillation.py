"""Whole runs that learn a teacher's answers: from a folder, from a real server, swapped by one setting, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_export.gguf.files import write_gguf
from kdtool_teacher_openai.testing import llama_cpp_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lively(teacher_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the teacher's tokenizer whose likeliest tokens differ from place to place."""
    import torch
    from kdtool_transformers import open_model

    model = open_model(teacher_folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.model.parameters():
        torch.nn.init.normal_(parameter, std=0.25, generator=generator)
    folder = tmp_path_factory.mktemp("lively")
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def served(lively: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The lively model behind a llama.cpp server: its address."""
    import torch
    from kdtool_transformers import open_model

    file = write_gguf(open_model(lively, dtype=torch.float32), tmp_path_factory.mktemp("served") / "lively.gguf")
    with llama_cpp_server(file, "tiny", context=256) as url:
        yield url


def asking(recipe: dict[str, Any], teacher: Path, url: str, student: Path) -> dict[str, Any]:
    """A recipe that learns answers: the student has another tokenizer than the teachers."""
    library = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 2}
    own = {"use": "answers", "ask": "teachers.folder", "corpus": "corpora.library", "prefix_lines": 3}
    recipe["corpora"] = {"library": library, "answers": {**own, "max_tokens": 12, "keep_truncated": True}}
    server = {"use": "openai", "url": url, "model": "tiny", "licence": "mit", "api": "completions", "retries": 1}
    recipe["teachers"] = {"folder": {**recipe.pop("teacher"), "model": str(teacher)}, "server": server}
    recipe["rows"] = {"use": "packed", "length": 32, "maximum_tokens": 256}
    recipe["student"] = {"use": "pretrained", "model": str(student)}
    recipe["train"] = {"losses": {"ce": {}}, "steps": 2}
    recipe["evaluators"] = {"perplexity": {"documents": 2, "characters": 200}}
    return {key: value for key, value in recipe.items() if key not in {"corpus", "signals", "control", "exporters"}}


def texts(results: kdtool.Results, split: str = "train") -> dict[str, Any]:
    (text,) = (stage.path for stage in results.stages if stage.name == "text")
    lines = (text / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def beginning(line: dict[str, Any]) -> str:
    """The first letters of an answer; bytes that are no text are shown differently."""
    return "".join(letter for letter in line["completion"] if letter.isascii())[:4]


def test_answers_are_learned_whoever_gives_them(
    recipe: dict[str, Any], lively: Path, served: str, other_teacher_folder: Path
) -> None:
    asked = asking(recipe, lively, served, other_teacher_folder)
    results = {name: kdtool.run(asked, {"corpora.answers.ask": f"teachers.{name}"}) for name in ("folder", "server")}
    folder, server = (texts(results[name]) for name in ("folder", "server"))
    assert folder.keys() == server.keys()
    assert len(folder) == 4
    for name in folder:
        assert folder[name]["prompt"] == server[name]["prompt"]
        assert (folder[name]["source"], server[name]["source"]) == (
            "answers of teachers.folder",
            "answers of teachers.server",
        )
    # The same weights, once in transformers and once in llama.cpp, which rounds otherwise: they begin in the same way.
    assert [beginning(line) for line in folder.values()] == [beginning(line) for line in server.values()]
    assert all("text" in line for line in texts(results["server"], "test").values()), "held-out text is as it was"
    assert {m.subject for m in results["server"].measurements} == {"teachers.folder", "base", "student"}, (
        "a server is not opened"
    )
    again = {stage.name: stage.action for stage in kdtool.plan(asked, {"corpora.answers.ask": "teachers.server"})}
    assert set(again.values()) == {"reuse"}


def test_likeliest_tokens_of_a_server_are_learned(recipe: dict[str, Any], served: str, lively: Path) -> None:
    top = {"use": "openai", "url": served, "model": "tiny", "licence": "mit", "tokenizer": str(lively), "top_k": 20}
    changed = {
        "teacher": top,
        "signals": False,
        "student": {"use": "pretrained", "model": str(lively)},
        "rows": {"use": "packed", "length": 24, "maximum_tokens": 96},
        "train": {"losses": {"forward-kl": {"weight": 0.5}, "ce": {"weight": 0.5}}, "steps": 2},
        "evaluators": {},
        "control": False,
        "exporters": {},
    }
    results = kdtool.run({**recipe, **changed})
    (report, *_) = results.arms[0].histories["train"]
    assert abs(report.terms["forward-kl"].value) < 1e-3, "the student is the teacher still"


def test_what_a_server_cannot_give_is_refused_before_anything_is_made(
    recipe: dict[str, Any], served: str, teacher_folder: Path, other_teacher_folder: Path
) -> None:
    top = {
        "use": "openai",
        "url": served,
        "model": "tiny",
        "licence": "mit",
        "tokenizer": str(teacher_folder),
        "top_k": 5,
    }
    plain = {
        **recipe,
        "teacher": top,
        "signals": False,
        "student": {"use": "pretrained", "model": str(teacher_folder)},
        "train": {"losses": {"reverse-kl": {}}, "steps": 2},
        "control": False,
    }
    with pytest.raises(
        kdtool.RecipeError, match=r"needs logits, but the teacher 'teacher' \(openai\) offers text, top-k"
    ):
        kdtool.check(plain)
    forward = {**plain, "train": {"losses": {"forward-kl": {}}, "steps": 2}}
    with pytest.raises(kdtool.RecipeError, match=r"needs logits or sampled or top-k, but .* offers text"):
        kdtool.check({**forward, "teacher": {"use": "openai", "url": served, "model": "tiny", "licence": "mit"}})
    with pytest.raises(kdtool.UsageError, match="the server's tokenizer is not"):
        kdtool.run({**forward, "teacher": {**top, "tokenizer": str(other_teacher_folder)}})
    with pytest.raises(kdtool.UsageError, match="does not serve the model 'huge', but tiny"):
        kdtool.run({**forward, "teacher": {**top, "model": "huge"}})
    with pytest.raises(kdtool.UsageError, match="temperature"):
        kdtool.run({**forward, "train": {"losses": {"forward-kl": {"temperature": 2.0}}, "steps": 2}})


@contextmanager
def counting_server() -> Iterator[tuple[str, Counter[str]]]:
    """A slow server of the protocol that counts how often each prompt was answered."""
    answered: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"data": [{"id": "slow"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(0.3)
            answer = {"message": {"content": "x = 1\n" * 9}, "finish_reason": "stop"}
            self._send({"choices": [answer], "usage": {"prompt_tokens": 3, "completion_tokens": 9}})
            answered[body["messages"][0]["content"]] += 1

        def _send(self, content: Any) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", answered
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_killed_run_asks_for_no_answer_that_it_has(
    recipe: dict[str, Any], other_teacher_folder: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "p{number}"}}\n' for number in range(8)), encoding="utf-8")
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"text": "y = 2", "split": "test"}\n', encoding="utf-8")
    with counting_server() as (url, answered):
        asked = asking(recipe, other_teacher_folder, url, other_teacher_folder)
        asked["corpora"] = {
            "answers": {"use": "answers", "ask": "teacher", "prompts": [str(prompts)]},
            "held-out": {"use": "jsonl", "files": [str(held_out)]},
        }
        del asked["teachers"]
        asked["teacher"] = {"use": "openai", "url": url, "model": "slow", "licence": "mit", "concurrency": 1}
        code = "import json, sys, kdtool; kdtool.run(json.loads(sys.argv[1]))"
        process = subprocess.Popen([sys.executable, "-c", code, json.dumps(asked)], stderr=subprocess.DEVNULL)
        while answered.total() < 4 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        (journal,) = (tmp_path / "store" / "text").glob("*.partial/answers/*.jsonl")
        kept = journal.read_text(encoding="utf-8").count("\n")
        assert kept >= 3
        results = kdtool.run(asked)
    assert len(texts(results)) == 8
    assert answered.total() <= 8 + 2, "what was under way when the process died, and nothing else, is asked again"
    assert sum(count > 1 for count in answered.values()) <= 8 - kept
    assert [(licensed.component, licensed.transfers) for licensed in results.licences] == [("teacher", ("text",))]


def test_answers_of_a_model_whose_licence_is_unknown_are_asked_about(
    recipe: dict[str, Any], teacher_folder: Path, served: str
) -> None:
    asked = asking(recipe, teacher_folder, served, teacher_folder)
    asked["corpora"]["answers"]["ask"] = "teachers.server"
    del asked["teachers"]["server"]["licence"]
    with pytest.raises(kdtool.RecipeError, match=r"which takes its text:\s+look up the licence of tiny, and name it"):
        kdtool.check(asked)
