"""A whole run on a server that refuses, or answers oddly: what is told, how often it is asked, and how it goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kdtool
import pytest

ANSWER = json.dumps({"choices": [{"message": {"content": "return x + 1\n" * 8}, "finish_reason": "stop"}]}).encode()
TOLD = "This model's maximum context length is 512 tokens. However, you requested 519 tokens"
REFUSAL = json.dumps({"object": "error", "message": TOLD, "code": 400}).encode()
PROMPTS = 600
"""Many: a busy machine may answer one of the first requests after hundreds of later ones."""


class Served:
    """Responses of a server as (status, body) by the prompt's text, and the prompts received."""

    def __init__(self) -> None:
        self.url = ""
        self.odd: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []


@contextmanager
def serving() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, b'{"data": [{"id": "m"}]}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            served.asked.append(prompt)
            self._send(*served.odd.get(prompt, (200, ANSWER)))

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
        served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        yield served
    finally:
        server.shutdown()
        server.server_close()


def asking(served: Served, folder: Path, student: Path) -> dict[str, Any]:
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "p{number}"}}\n' for number in range(PROMPTS)), encoding="utf-8")
    return {
        "name": "asking",
        "teacher": {"use": "openai", "url": served.url, "model": "m", "licence": "mit", "retries": 0},
        "corpus": {"use": "answers", "prompts": [str(prompts)]},
        "rows": {"use": "packed", "length": 32},
        "student": {"use": "pretrained", "model": str(student)},
        "trainer": {"use": "standard", "batch": 1},
        "train": {"losses": {"ce": {}}, "steps": 1},
        "control": False,
        "evaluators": {},
        "exporters": {},
        "trackers": {},
    }


def test_a_server_that_refuses_everything_is_soon_left_alone_and_asked_again_when_it_is_mended(
    tmp_path: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving() as served:
        recipe = asking(served, tmp_path, teacher_folder)
        served.odd = {f"p{number}": (400, REFUSAL) for number in range(PROMPTS)}
        with pytest.raises(kdtool.UsageError, match=rf"refuses each of the first 16 .*{TOLD}.*lower max_tokens"):
            kdtool.run(recipe)
        assert len(served.asked) < PROMPTS
        served.odd, served.asked = {}, []
        results = kdtool.run(recipe)
    assert set(served.asked) == {f"p{number}" for number in range(PROMPTS)}  # some of the first run may arrive only now
    assert results.arms


def test_odd_answers_cost_themselves_alone(
    tmp_path: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving() as served:
        recipe = asking(served, tmp_path, teacher_folder)
        served.odd = {
            "p3": (200, ANSWER.replace(b"x + 1", b"x \xe9 1")),
            "p5": (200, ANSWER.replace(b"x + 1", rb"x \ud83d 1")),
            "p7": (200, b"[" * 100_000),
        }
        results = kdtool.run(recipe)
    assert len(served.asked) == PROMPTS
    assert f"{PROMPTS - 2} answers of teacher; left out: 2 refused" in "".join(capsys.readouterr())
    (text,) = (stage.path for stage in results.stages if stage.name == "text")
    lines = map(json.loads, (text / "train.jsonl").read_text(encoding="utf-8").splitlines())
    learned = {line["id"]: line["completion"] for line in lines}
    assert "return x \ufffd 1" in learned["prompts.jsonl:6"]


def test_what_a_server_answered_is_not_asked_again_for_a_setting_that_no_answer_follows_from(
    tmp_path: Path, teacher_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEW_API_KEY", "k")
    with serving() as served:
        monkeypatch.setenv("KDTOOL_TRUST_URL", served.url)
        recipe = asking(served, tmp_path, teacher_folder)
        kdtool.run(recipe)
        served.asked = []
        for settings in (
            {"licence": "apache-2.0"},
            {"tokenizer": str(teacher_folder)},
            {"key_variable": "NEW_API_KEY"},
        ):
            kdtool.run(recipe, {f"teacher.{key}": value for key, value in settings.items()})
        assert served.asked == []
