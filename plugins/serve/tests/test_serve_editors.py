"""Requests as editors' plugins send them, and `/infill` as llama.cpp defines it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

RECORDED = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in Path(__file__).parent.glob("recorded/*.json")
}
TEXT = "return width * height\n"


def _replay(server: Running, name: str) -> httpx.Response:
    response = server.post(RECORDED[name]["path"], **RECORDED[name]["body"])
    assert response.status_code == 200, response.text
    return response


def _events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_recorded_requests_of_editors_are_answered(server: Running, name: str) -> None:
    assert _replay(server, name).text


def test_llama_vscode_gets_the_text_between_prefix_and_suffix(server: Running, student: StreamingRuntime) -> None:
    found = _replay(server, "llama.vscode-completion").json()
    assert (found["content"], found["stop"], found["tokens_predicted"]) == (TEXT, True, 4)
    assert found["truncated"] is False
    assert found["timings"]["predicted_n"] == 4
    (asked,) = student.asked
    assert asked.prompt.endswith("\n\nimport math\n\n\ndef area(radius):\n    return ")
    assert asked.prompt.startswith("def circumference(radius):")
    assert asked.suffix == "\n\n\nprint(area(2))\n"
    assert (asked.max_tokens, asked.top_k, asked.top_p, asked.temperature) == (128, 40, 0.99, 0.0)


def test_a_warm_up_reads_the_prompt_and_has_no_text(server: Running, student: StreamingRuntime) -> None:
    assert _replay(server, "llama.vscode-warm-up").json()["content"] == ""
    assert student.asked[0].max_tokens == 1
    streamed = server.post("/infill", **{**RECORDED["llama.vscode-warm-up"]["body"], "stream": True})
    assert [event["content"] for event in _events(streamed)] == [""]


def test_llama_vim_gets_the_fields_that_it_names(server: Running) -> None:
    found = _replay(server, "llama.vim-completion").json()
    assert found["content"] == TEXT
    assert found["timings/predicted_n"] == 4
    assert set(found) <= set(RECORDED["llama.vim-completion"]["body"]["response_fields"])


def test_continue_gets_a_stream_for_its_own_template(server: Running, student: StreamingRuntime) -> None:
    events = _events(_replay(server, "continue-autocomplete"))
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == TEXT
    assert student.asked[0].prompt.startswith("<fim_prefix>")
    assert student.asked[0].suffix is None
    assert "\n\n" in student.asked[0].stop
    chat = _events(_replay(server, "continue-chat"))
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in chat) == TEXT


def test_infill_streams_in_the_form_of_llama_cpp(server: Running) -> None:
    response = server.post("/infill", input_prefix="a", input_suffix="\nb", stream=True)
    events = _events(response)
    assert "[DONE]" not in response.text
    assert [event["stop"] for event in events] == [False] * 4 + [True]
    assert "".join(event["content"] for event in events) == TEXT
    assert events[-1]["timings"]["predicted_n"] == 4


def test_a_gap_in_a_long_file_is_filled_from_the_text_next_to_it(student: StreamingRuntime) -> None:
    student.context = 300
    with running(ScriptedModels({"student": student})) as server:
        found = server.post(
            "/infill",
            input_extra=[{"filename": "other.py", "text": "other " * 500}],
            input_prefix="early " * 500 + "near",
            input_suffix="\nnext " + "late " * 500,
        ).json()
    assert (found["content"], found["truncated"]) == (TEXT, True)
    asked = student.asked[-1]
    assert asked.prompt.endswith("early near")
    assert asked.suffix
    assert asked.suffix.startswith("\nnext late")
    assert "other" not in asked.prompt


@pytest.mark.parametrize(
    ("text", "given", "kept"),
    [
        ("x = 1\n    y = 2\nz = 3\n", {"n_indent": 4}, "x = 1\n    y = 2"),
        ("x = 1\nz = 3\n", {}, "x = 1"),
        ("x = 1\n    y = 2\n    z = 3\n" + "w " * 200, {"t_max_predict_ms": 1}, "x = 1"),
        ("x = 1\n    y = 2\n", {"t_max_predict_ms": -1}, "x = 1\n    y = 2\n"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_where_the_editor_wants_it(text: str, given: dict[str, Any], kept: str, stream: bool) -> None:
    student = StreamingRuntime(lambda _: text, seconds=0.002)
    with running(ScriptedModels({"student": student})) as server:
        response = server.post("/infill", input_prefix="    ", stream=stream, **given)
        events = _events(response) if stream else [response.json()]
    found = "".join(event["content"] for event in events)
    assert found.rstrip("\n") == kept.rstrip("\n") if stream else found == kept
    assert not student.open


def test_a_gap_that_the_model_cannot_fill_is_refused_by_the_field_that_was_sent() -> None:
    chats = StreamingRuntime(abilities=frozenset({"converse"}))
    with running(ScriptedModels({"control": chats})) as server:
        refused = server.post("/infill", model="control", input_prefix="a", input_suffix="b")
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == ("input_suffix", "unsupported")
    assert error["message"].startswith("input_suffix: control cannot infill")
