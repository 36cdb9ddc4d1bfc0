"""Ollama's own client, unchanged, against a server with scripted models and with a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

import kdtool
import ollama
import pytest
from kdtool_testing.tiny_models import tiny_model
from kdtool_transformers import TransformersRuntime
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

TEXT = "return width * height\n"
ASK: list[Any] = [{"role": "user", "content": "area of a rectangle"}]


@contextmanager
def _connected(server: Running) -> Iterator[ollama.Client]:
    with closing(ollama.Client(host=server.url, timeout=20)) as client:
        yield client


@pytest.fixture
def client(server: Running) -> Iterator[ollama.Client]:
    """Ollama's Python client of the server."""
    with _connected(server) as connected:
        yield connected


def test_a_gap_is_filled_with_the_options_of_the_request(student: StreamingRuntime, client: ollama.Client) -> None:
    sampling = {"temperature": 0.2, "top_k": 5, "top_p": 0.5, "seed": 7, "stop": ["X"]}
    options = {**sampling, "num_predict": 3, "num_ctx": 99}
    before, after = "def area(width, height):\n    ", "\n\nprint(area(2, 3))"
    found = client.generate("student", before, suffix=after, options=options)
    assert (found.response, found.done, found.done_reason) == ("return width * ", True, "length")
    assert (found.model, found.eval_count, found.prompt_eval_count) == ("student", 3, 5)
    (asked,) = student.asked
    assert (asked.prompt, asked.suffix, asked.max_tokens) == (before, after, 3)
    assert {name: getattr(asked, name) for name in sampling} == {**sampling, "stop": ("X",)}


def test_a_gap_at_the_end_of_a_file_is_code_and_no_conversation(
    student: StreamingRuntime, client: ollama.Client
) -> None:
    client.generate("student", "def f(", suffix="")
    (asked,) = student.asked
    assert (asked.prompt, asked.turns) == ("def f(", ())


def test_defaults_are_those_of_ollama_except_for_a_gap(student: StreamingRuntime, client: ollama.Client) -> None:
    client.generate("student", "x", raw=True)
    client.generate("student", "x", suffix="y")
    assert [(asked.temperature, asked.top_k, asked.top_p) for asked in student.asked] == [
        (0.8, 40, 0.9),
        (0.0, 40, 0.9),
    ]


def test_a_stream_is_of_json_lines_and_the_last_has_the_figures(server: Running, client: ollama.Client) -> None:
    response = server.post("/api/generate", model="student", prompt="x", raw=True)
    assert response.headers["content-type"] == "application/x-ndjson"
    *pieces, last = map(json.loads, response.text.splitlines())
    assert "".join(piece["response"] for piece in pieces) == TEXT
    assert all(set(piece) == {"model", "created_at", "response", "done"} and not piece["done"] for piece in pieces)
    durations = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
    assert all(isinstance(last[name], int) and last[name] >= 0 for name in durations)
    assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"] > 0
    assert (last["response"], last["done"], last["done_reason"], last["eval_count"]) == ("", True, "stop", 4)
    assert datetime.fromisoformat(last["created_at"]).tzinfo
    streamed = list(client.generate("student", "x", stream=True))
    assert "".join(part.response or "" for part in streamed) == TEXT


def test_a_prompt_is_a_users_message_unless_it_is_raw(student: StreamingRuntime, client: ollama.Client) -> None:
    client.generate("student", "hello", system="Be short.")
    client.generate("student", "hello", raw=True)
    client.generate("control", "hello")
    assert student.asked[0].turns == (("system", "Be short."), ("user", "hello"))
    assert (student.asked[1].turns, student.asked[1].prompt) == ((), "hello")


def test_a_chat_answers_and_continues_what_is_begun(student: StreamingRuntime, client: ollama.Client) -> None:
    assert client.chat("student", ASK).message.content == TEXT
    parts = list(client.chat("student", [*ASK, {"role": "assistant", "content": "def f("}], stream=True))
    assert "".join(part.message.content or "" for part in parts) == TEXT
    assert [part.message.role for part in parts] == ["assistant"] * len(parts)
    assert parts[-1].done_reason == "stop"
    assert (student.asked[1].turns, student.asked[1].prompt) == ((("user", "area of a rectangle"),), "def f(")


def test_log_probabilities_are_reported(client: ollama.Client) -> None:
    found = client.generate("student", "x", logprobs=True, top_logprobs=2, options={"num_predict": 1})
    assert found.logprobs
    assert (found.logprobs[0].token, found.logprobs[0].logprob) == ("return ", -0.5)
    assert [each.token for each in found.logprobs[0].top_logprobs or ()] == ["return ", "other"]


def test_models_are_listed_described_loaded_and_unloaded(server: Running, client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["student:latest", "control:latest"]
    assert client.ps().models == []
    found = client.generate("student:latest", "")
    assert (found.response, found.done_reason, found.model) == ("", "load", "student:latest")
    assert [(model.name, model.size) for model in client.ps().models] == [("student:latest", 123_000_000)]
    shown = client.show("student")
    assert shown.capabilities == ["completion", "insert"]
    assert ".Suffix" in (shown.template or "")
    assert client.chat("student", [], keep_alive=0)["done_reason"] == "unload"
    assert client.ps().models == []
    assert server.get("/api/version").json() == {"version": kdtool.__version__}
    assert server.post("/api/show", name="control").status_code == 200  # as older clients name the model


def test_errors_are_a_text_under_their_status(server: Running, client: ollama.Client) -> None:
    tools = [{"type": "function", "function": {"name": "read_file"}}]
    for ask, words, status in (
        (lambda: client.generate("gpt-9", "x"), "^model 'gpt-9' not found; this server has student, control", 404),
        (lambda: client.chat("control", ASK), "control does not converse", 400),
        (lambda: client.chat("student", ASK, tools=tools), "student does not support tools", 400),
        (lambda: client.chat("student", ASK, think=True), '"student" does not support thinking', 400),
        (lambda: client.generate("student", "x", format="json"), "structured answers are not supported", 400),
    ):
        with pytest.raises(ollama.ResponseError, match=words) as error:
            ask()
        assert error.value.status_code == status
    for path, status in (("/api/pull", 404), ("/api/generate", 400)):
        found = server.post(path, prompt="x")
        assert (found.status_code, list(found.json())) == (status, ["error"])
        assert isinstance(found.json()["error"], str)


def test_an_error_within_a_stream_is_its_last_line(student: StreamingRuntime, client: ollama.Client) -> None:
    student.breaks_after = 2
    parts = client.generate("student", "x", stream=True)
    assert next(iter(parts)).response == "return "
    with pytest.raises(ollama.ResponseError, match="the model failed: lost its"):
        list(parts)


def test_a_long_prompt_loses_its_beginning_and_a_long_chat_its_oldest_turns(student: StreamingRuntime) -> None:
    student.context = 100
    with running(ScriptedModels({"student": student})) as server, _connected(server) as client:
        assert client.generate("student", "early " * 200 + "near", raw=True).response == TEXT
        assert student.asked[-1].prompt.endswith("early near")
        turns = [{"role": "user", "content": "long " * 90}, {"role": "assistant", "content": "answer " * 20}]
        system = {"role": "system", "content": "Be short."}
        assert client.chat("student", [system, *turns, *ASK]).message.content == TEXT
        assert student.asked[-1].turns == (
            ("system", "Be short."), ("assistant", "answer " * 20), ("user", "area of a rectangle"),
        )  # fmt: skip


def test_a_real_model_has_its_shapes() -> None:
    models = ScriptedModels({"student": TransformersRuntime(tiny_model())})
    with running(models) as server, _connected(server) as client:
        assert client.generate("student", "def f(", raw=True, options={"num_predict": 5}).eval_count == 5
        info = client.show("student").modelinfo or {}
        names = ("general.architecture", "llama.context_length", "llama.block_count")
        assert [info[name] for name in names] == ["llama", 512, 4]
        (loaded,) = client.ps().models
        assert loaded.context_length == 512
        assert loaded.details
        assert loaded.details.family == "llama"
