"""OpenAI's own client, unchanged, against a server with scripted models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import kdtool
import openai
import pytest
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime

TEXT = "return width * height\n"
ASK: list[Any] = [{"role": "user", "content": "area of a rectangle"}]


def test_models_are_listed_with_role_and_memory(server: Running) -> None:
    client = server.openai()
    assert [model.id for model in client.models.list()] == ["student", "control"]
    assert client.models.retrieve("control").to_dict()["kdtool"] == {
        "role": "control", "loaded": False, "memory": None, "abilities": None,
        "completions": {"asked": 0, "shown": 0, "accepted": 0},
    }  # fmt: skip
    client.completions.create(model="control", prompt="x")
    client.completions.create(model="control:latest", prompt="x")  # as Ollama lists it
    found = client.models.retrieve("control").to_dict()["kdtool"]
    assert (found["loaded"], found["memory"]) == (True, 123_000_000)  # type: ignore[index]


def test_a_completion_has_text_usage_and_times(server: Running, student: StreamingRuntime) -> None:
    settings: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "seed": 3, "stop": ["\n\n"], "top_p": 0.9}
    found = server.openai().completions.create(model="student", prompt="def area(width, height):", **settings)
    assert (found.choices[0].text, found.choices[0].finish_reason) == (TEXT, "stop")
    assert found.usage
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (3, 4, 7)
    timings: Any = found.to_dict()["timings"]
    assert timings["predicted_n"] == 4
    assert 0 < timings["prompt_ms"] <= timings["first_token_ms"]
    (asked,) = student.asked
    assert (asked.max_tokens, asked.temperature, asked.seed, asked.stop, asked.top_p) == (8, 0.0, 3, ("\n\n",), 0.9)
    assert asked.suffix is None


def test_prompts_and_choices_have_seeds_and_places_of_their_own(server: Running, student: StreamingRuntime) -> None:
    client = server.openai().completions
    found = client.create(model="student", prompt=["a", "b b"], n=2, seed=7, echo=True, max_tokens=1)
    assert [choice.text for choice in found.choices] == ["areturn ", "areturn ", "b breturn ", "b breturn "]
    assert sorted((asked.prompt, asked.seed) for asked in student.asked) == [("a", 7), ("a", 8), ("b b", 7), ("b b", 8)]
    assert found.usage
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 4)
    for _ in range(2):
        client.create(model="student", prompt="a")
    assert student.asked[-1].seed != student.asked[-2].seed


def test_a_stream_has_the_pieces_the_finish_and_the_usage(server: Running) -> None:
    client = server.openai().completions
    ask: dict[str, Any] = {"model": "student", "prompt": "def f():", "stream": True}
    chunks = list(client.create(**ask, echo=True, stream_options={"include_usage": True}))
    texts = [choice.text for chunk in chunks for choice in chunk.choices]
    assert texts == ["def f():", "return ", "width ", "* ", "height\n"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 4
    assert chunks[-1].to_dict()["timings"]["predicted_n"] == 4
    chunks = list(client.create(**ask, max_tokens=2))
    assert [len(chunk.choices) for chunk in chunks] == [1, 1], "some clients read choices[0] of every chunk"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "timings" in chunks[-1].to_dict()


def test_choices_of_a_chat_are_streamed_side_by_side_and_begin_with_the_role(server: Running) -> None:
    texts, chats = {0: "", 1: "", 2: ""}, server.openai().chat.completions
    chunks = list(chats.create(model="student", messages=ASK, n=3, stream=True))
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
    assert texts == {0: TEXT, 1: TEXT, 2: TEXT}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_logprobs_of_completions(server: Running) -> None:
    (choice,) = server.openai().completions.create(model="student", prompt="x", logprobs=2, max_tokens=2).choices
    found = choice.logprobs
    assert found
    assert found.tokens == ["return ", "width "]
    assert found.token_logprobs == [-0.5, -0.5]
    assert found.top_logprobs == [{"return ": -0.5, "other": -1.5}, {"width ": -0.5, "other": -1.5}]
    assert found.text_offset == [1, 8]


def test_a_chat_has_turns_logprobs_and_an_answer_that_the_last_message_may_begin(
    server: Running, student: StreamingRuntime
) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "area of "}, {"type": "text", "text": "a square"}]},
        {"role": "assistant", "content": "def area("},
    ]
    found = server.openai().chat.completions.create(
        model="student", messages=messages, logprobs=True, top_logprobs=1, max_completion_tokens=2
    )
    assert found.choices[0].message.content == "return width "
    assert found.choices[0].logprobs
    assert found.choices[0].logprobs.content
    assert found.choices[0].logprobs.content[0].top_logprobs[0].token == "return "  # noqa: S105 - no password
    assert student.asked[0].turns == (("system", "Be short."), ("user", "area of a square"))
    assert (student.asked[0].prompt, student.asked[0].max_tokens) == ("def area(", 2)


def test_parameters_that_change_nothing_are_accepted(server: Running) -> None:
    server.openai().chat.completions.create(
        model="student", messages=ASK, user="me", store=False, presence_penalty=0, frequency_penalty=0, logit_bias={},
        response_format={"type": "text"}, tool_choice="none", service_tier="auto",
    )  # fmt: skip
    server.openai().completions.create(model="student", prompt="x", best_of=1, user="me")


CHAT = {"messages": ASK}
NO_TEMPLATE = "control does not converse, because its tokenizer has no chat"
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"logit_bias": {"50256": -100}}, "logit_bias", ""),
        ({"guided_json": {}}, "guided_json", ""),
        ({"echo": True, "logprobs": 1}, "prompt", "only models of transformers that answer without --draft"),
        ({"prompt": [1, 2, 3]}, "prompt", "student reads no token ids"),
        ({"prompt": [[True]]}, "prompt", "must be a text, a list of token ids, or a list of these"),
        ({"max_tokens": 0}, "max_tokens", "0 needs echo"),
        ({"prompt": "x " * 1200}, "prompt", "1200 tokens, leaves no room in the model's context of 1000 tokens"),
        ({"model": "gpt-9"}, "model", "model 'gpt-9' not found; this server has student, control"),
        ({"model": "control", **CHAT}, "messages", NO_TEMPLATE),
        ({"messages": [{"role": "assistant", "content": "def f("}]}, "messages", ""),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages.0.content.0.type", "input should be 'text'"),
    ],
)
def test_a_request_that_is_not_supported_is_refused_by_its_field(
    server: Running, given: dict[str, Any], param: str, words: str
) -> None:
    path = "/v1/chat/completions" if "messages" in given else "/v1/completions"
    refused = server.post(path, **{"model": "student", **({} if "messages" in given else {"prompt": "x"}), **given})
    error = refused.json()["error"]
    assert refused.status_code == (404 if param == "model" else 400)
    assert error["param"] == param
    assert param in error["message"]
    assert words in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_naturally_on_demand(server: Running, student: StreamingRuntime, stream: bool) -> None:
    student.text = lambda _: "\n    return 1 \n\n\nprint( one() )"
    ask: dict[str, Any] = {"model": "student", "prompt": "def one():", "max_tokens": 99, "stream": stream}

    def answered(**more: Any) -> tuple[str, str | None, str | None]:
        found = server.openai().completions.create(**ask, **more)
        choices = [choice for part in (found if stream else [found]) for choice in part.choices]
        last = choices[-1]
        return "".join(one.text for one in choices), last.finish_reason, getattr(last, "stop_reason", None)

    assert answered() == ("\n    return 1 \n\n\nprint( one() )", "stop", None)
    natural = {"extra_body": {"natural_end": True}}
    assert answered(**natural) == ("\n    return 1 ", "stop", "the definition ended")


def test_an_error_of_the_model_is_an_http_error_or_the_last_event_of_a_stream(
    server: Running, student: StreamingRuntime
) -> None:
    client = server.openai()
    student.breaks_after = 0
    with pytest.raises(openai.InternalServerError, match="the model failed: lost its"):
        client.completions.create(model="student", prompt="x", stream=True)
    student.breaks_after = 2
    chunks = iter(client.completions.create(model="student", prompt="x", stream=True))
    assert [next(chunks).choices[0].text for _ in range(2)] == ["return ", "width "]
    with pytest.raises(openai.APIError, match="the model failed: lost its"):
        next(chunks)


def test_closing_a_stream_ends_the_generation_within_one_token(server: Running, student: StreamingRuntime) -> None:
    student.text, student.seconds = (lambda _: "word " * 500), 0.02
    stream = server.openai().completions.create(model="student", prompt="x", max_tokens=500, stream=True)
    next(iter(stream))
    assert student.open == 1
    began = time.perf_counter()
    stream.close()
    while student.open and time.perf_counter() - began < 2:
        time.sleep(0.001)
    assert time.perf_counter() - began < 0.2


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("CUDA out of memory"), 503, "insufficient_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 503, "insufficient_memory"),
        (None, 200, None),
    ],
)
def test_an_error_of_the_model_has_its_code_and_no_token_is_none(
    error: Exception | None, status: int, code: str | None
) -> None:
    class Failing(StreamingRuntime):
        def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
            if error is not None:
                raise error
            yield kdtool.TextPiece("", 3, 0, "stop")

    with running(ScriptedModels({"student": Failing()})) as server:
        found = server.post("/v1/completions", prompt="x")
        assert (found.status_code, found.json().get("error", {}).get("code")) == (status, code)
        times = found.json().get("timings", {})
        assert {times.get(name, 0) for name in ("predicted_n", "predicted_ms", "predicted_per_second")} == {0}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "bearer schlüssel"}, 200),
        ({"Authorization": "Bearer schlüssel"}, 200),
        ({"Authorization": "Bearer", "x-api-key": "schlüssel"}, 200),
        ({"Authorization": "Bearer schlüsse"}, 401),
        ({}, 401),
    ],
)
def test_a_key_is_demanded_and_known_by_its_bytes_in_each_header(headers: dict[str, str], status: int) -> None:
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    with running(ScriptedModels({"student": StreamingRuntime()}), key="schlüssel") as server:
        for path in ("/v1/models", "/metrics"):
            found = httpx.get(server.url + path, headers=sent)
            assert found.status_code == status
            assert ("the key is missing or wrong" in found.text) == (status == 401)
        assert server.get("/health").json() == {"status": "ok"}
