"""Servers that break: what is tried again, what is not, what the user is told, and that nothing is lost or paid twice."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_teacher_openai import OpenAI
from kdtool_testing import make_run
from openai_servers import Call, Reply, Served, chat, serving

KEY = "sk-very-secret"
REQUESTS = [kdtool.Request(f"r{number}", f"prompt {number}", 8) for number in range(12)]


@contextmanager
def teacher(served: Served, **settings: Any) -> Iterator[OpenAI]:
    values = {"url": served.url, "model": "m", "timeout": 5.0, "retries": 2, "concurrency": 4, **settings}
    found = OpenAI(OpenAI.Config.model_validate(values))
    try:
        yield found
    finally:
        found.kdtool_close()


def ask(
    script: Callable[[Call, int], Reply], requests: Sequence[kdtool.Request] = REQUESTS[:1], **settings: Any
) -> tuple[list[kdtool.TextAnswer], list[Call]]:
    """Return the answers of a server, and what was posted to it."""
    with serving(script) as served, teacher(served, **settings) as asked:
        return list(asked.kdtool_answer(requests)), served.posts


def prompt_of(call: Call) -> str:
    text: str = call.body["messages"][0]["content"]
    return text


def test_many_answers_come_whole_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_API_KEY", KEY)
    answers, posts = ask(lambda call, _: chat(prompt_of(call).upper()), REQUESTS, key_variable="OWN_API_KEY")
    found = {answer.id: answer for answer in answers}
    assert {name: answer.text for name, answer in found.items()} == {r.id: r.prompt.upper() for r in REQUESTS}
    assert found["r0"] == kdtool.TextAnswer("r0", "PROMPT 0", "stop", 5, 7)
    assert len(posts) == len(REQUESTS)
    assert {call.key for call in posts} == {f"Bearer {KEY}"}


def test_what_is_sent_is_what_was_asked() -> None:
    request = kdtool.Request("a", "p", 9, stop=("\n\n",), temperature=0.5, seed=3)
    (answer,), (post,) = ask(lambda *_: chat("one\n\ntwo"), [request])
    assert answer.text == "one"
    assert post.path == "/v1/chat/completions"
    assert post.body == {
        "model": "m", "messages": [{"role": "user", "content": "p"}], "max_tokens": 9, "temperature": 0.5, "seed": 3,
        "stop": ["\n\n"],
    }  # fmt: skip


def test_a_gap_is_filled_by_the_suffix_of_completions(tmp_path: Path) -> None:
    request = kdtool.Request("a", "p", 9, suffix="s", top_p=0.9, top_k=5)
    filled = Reply(body={"choices": [{"text": "mid", "finish_reason": "stop"}]})
    with serving(lambda *_: filled) as served, teacher(served, api="completions") as asked:
        opened = asked.kdtool_open(make_run(tmp_path), kdtool.Subject("teacher", "teacher"))
        assert opened is not None
        assert opened.abilities == {"continue", "infill"}
        (answer,) = opened.answer([request])
    assert answer.text == "mid"
    assert served.posts[0].path == "/v1/completions"
    sent = served.posts[0].body
    assert [sent[name] for name in ("prompt", "suffix", "top_p", "top_k")] == ["p", "s", 0.9, 5]
    with pytest.raises(kdtool.UsageError, match="needs `api: completions`"):
        ask(lambda *_: filled, [request])


def test_a_server_gets_four_stop_strings_and_the_answer_is_cut_at_all_of_them() -> None:
    request = kdtool.Request("a", "p", 9, stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"))
    (answer,), (post,) = ask(lambda *_: chat("one\nprint(one)\nif", "length"), [request])
    assert post.body["stop"] == ["\nclass", "\ndef", "\n#", "\nif"]
    assert (answer.text, answer.finish) == ("one", "stop")


@pytest.mark.parametrize(
    "broken",
    [
        Reply(500, {"error": {"message": "oh"}}),
        Reply(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.2"}),
        Reply(200, {"choices": []}, cut=True),
        Reply(hang=10),
    ],
    ids=["500", "429", "dropped", "hangs"],
)
def test_a_request_without_an_answer_is_sent_again(broken: Reply) -> None:
    start = time.monotonic()
    timeout = 1.5 if broken.hang else 20.0
    (answer,), posts = ask(lambda _, number: broken if number < 2 else chat("good"), timeout=timeout, concurrency=1)
    assert (answer.text, len(posts)) == ("good", 3)
    if broken.status == 429:
        assert time.monotonic() - start > 0.4, "Retry-After is waited for"


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (Reply(500, {"error": {"message": "oh no"}}), "fails with 500 after 3 attempts: oh no"),
        (Reply(hang=10), "did not answer within 1 s"),
        (Reply(200, {}, cut=True), r"http://127\.0\.0\.1:\d+/v1 cannot be reached"),
    ],
    ids=["500", "hangs", "dropped"],
)
def test_a_server_that_stays_broken_is_a_service_that_is_down(broken: Reply, told: str) -> None:
    timeout = 1.0 if broken.hang else 20.0
    with (
        serving(lambda *_: broken) as served,
        teacher(served, timeout=timeout) as asked,
        pytest.raises(kdtool.ServiceError, match=told),
    ):
        list(asked.kdtool_answer(REQUESTS[:1]))
    assert len(served.posts) == 3


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}"}}), "refuses the key in OWN_API_KEY"),
        (Reply(402, {"error": {"message": "no money"}}), "wants to be paid"),
        (Reply(429, {"error": {"message": "quota", "code": "insufficient_quota"}}), "wants to be paid"),
    ],
)
def test_keys_and_bills_stop_at_once_and_no_key_is_shown(
    reply: Reply, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_API_KEY", KEY)
    with (
        serving(lambda *_: reply) as served,
        teacher(served, key_variable="OWN_API_KEY", concurrency=1) as asked,
        pytest.raises(kdtool.AuthenticationError, match=told) as caught,
    ):
        list(asked.kdtool_answer(REQUESTS))
    assert len(served.posts) == 1
    seen: BaseException | None = caught.value
    while seen is not None:
        assert KEY not in str(seen)
        seen = None if seen.__suppress_context__ else seen.__context__


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OWN_API_KEY", raising=False)
    with pytest.raises(kdtool.AuthenticationError, match="key_variable: OWN_API_KEY is not set"):
        ask(lambda *_: chat("x"), key_variable="OWN_API_KEY")


def answer_of(choice: Any, **more: Any) -> Reply:
    return Reply(body={"choices": [choice], **more})


SAYS_X = {"message": {"content": "x"}}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (Reply(200, b"{garbage"), "not valid JSON: Expecting property name"),
        (Reply(200, b"[" * 200_000), "not valid JSON: maximum recursion depth"),
        (Reply(200, b"plain", {"Content-Type": "text/plain"}), "not JSON but 'plain'"),
        (Reply(200, {"choices": "none"}), "contains no choice"),
        (Reply(200, {"error": {"message": "no\nroom \ud83d", "code": 503}}), "the answer is an error: no room \ufffd"),
        (answer_of({"message": {"content": None, "reasoning": "x"}, "finish_reason": "stop"}), "contains no text"),
        (chat("no", "abort"), "ended with finish_reason 'abort'"),
        (Reply(400, {"error": {"message": "prompt too long"}}), "400: prompt too long"),
        (Reply(400, {"detail": "prompt too long"}), "400: .*prompt too long"),
        (chat("no", "content_filter"), "^$"),
    ],
)
def test_one_bad_answer_is_asked_once_and_loses_no_other(odd: Reply, reason: str) -> None:
    answers, posts = ask(lambda call, _: odd if prompt_of(call) == "prompt 5" else chat("good"), REQUESTS)
    found = {answer.id: answer for answer in answers}
    assert {name: one.finish for name, one in found.items()} == {
        request.id: "refused" if request.id == "r5" else "stop" for request in REQUESTS
    }
    assert re.search(reason, found["r5"].reason)
    assert {one.reason for name, one in found.items() if name != "r5"} == {""}
    assert len(posts) == len(REQUESTS), "an answer that was received is not asked for again"


@pytest.mark.parametrize(
    ("reply", "finish"),
    [
        *((chat("x", word), "stop") for word in ("stop", "eos", "eos_token", "stop_sequence")),
        (chat("x", "max_tokens"), "length"),
        (answer_of(SAYS_X), "stop"),
        (answer_of(SAYS_X, usage={"completion_tokens": 8}), "length"),
    ],
)
def test_ends_are_understood_by_whatever_word_a_server_has_for_them(reply: Reply, finish: str) -> None:
    (answer,), _ = ask(lambda *_: reply)
    assert (answer.text, answer.finish, answer.reason) == ("x", finish, "")
    assert {type(answer.tokens_in), type(answer.tokens_out)} == {int}


def test_half_a_character_is_replaced_where_an_answer_is_read() -> None:
    (answer,), _ = ask(lambda *_: chat("a\ud83d\ude00b\ud83dc\udc00"))
    assert answer.text == "a\N{GRINNING FACE}b\ufffdc\ufffd"


def test_a_prompt_that_cannot_be_sent_is_refused_and_no_other() -> None:
    found, _ = ask(lambda *_: chat("x"), [kdtool.Request("half", "\ud83d", 8), *REQUESTS[:1]])
    reasons = {answer.id: answer.reason for answer in found}
    assert reasons.pop("half").startswith("the request contains text that cannot be sent")
    assert reasons == {"r0": ""}


def test_reasons_hold_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_API_KEY", KEY)
    for reply in (Reply(400, {"error": {"message": f"not {KEY}"}}), Reply(200, {"error": f"not {KEY}"})):
        (answer,), _ = ask(lambda *_, reply=reply: reply, key_variable="OWN_API_KEY")
        assert answer.reason.endswith("not ***")


def test_answers_under_way_when_the_server_fails_are_not_lost() -> None:
    def script(call: Call, _: int) -> Reply:
        if prompt_of(call) == "prompt 0":
            return Reply(500, {"error": {"message": "gone"}})
        time.sleep(0.3)
        return chat("good")

    found: list[str] = []
    with (
        serving(script) as served,
        teacher(served, retries=0) as asked,
        pytest.raises(kdtool.ServiceError, match="fails with 500 at once"),
    ):
        found.extend(answer.id for answer in asked.kdtool_answer(REQUESTS))
    assert sorted(found) == ["r1", "r2", "r3"]
    assert len(served.posts) == 4, "no more was begun"


def test_a_caller_that_stops_is_not_kept_waiting() -> None:
    start = time.monotonic()
    with (
        serving(lambda call, number: chat("x") if number == 0 else Reply(hang=20)) as served,
        teacher(served, timeout=20) as asked,
    ):
        answers = asked.kdtool_answer(REQUESTS)
        next(answers)
        answers.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 10


def test_a_name_may_be_without_the_tag_that_ollama_lists() -> None:
    listed = Reply(200, {"data": [{"id": "m:latest"}]})
    with serving(lambda *_: chat("x"), listed) as served, teacher(served) as asked:
        assert [answer.text for answer in asked.kdtool_answer(REQUESTS)] == ["x"] * len(REQUESTS)


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (Reply(200, {"data": [{"id": "other"}, {"id": "more"}]}), "does not serve the model 'm', but more, other"),
        (Reply(200, b"<html>", {"Content-Type": "text/html"}), "not a server with the OpenAI protocol"),
        (Reply(404, {"detail": "Not Found"}), "does not know this path"),
        (Reply(302, {}, {"Location": "https://api.openai.com/v1/models"}), "302"),
    ],
)
def test_a_server_of_something_else_is_found_out_before_anything_is_asked(models: Reply, told: str) -> None:
    with (
        serving(lambda *_: chat("x"), models) as served,
        teacher(served) as asked,
        pytest.raises(kdtool.KdtoolError, match=told),
    ):
        list(asked.kdtool_answer(REQUESTS))
    assert served.posts == []
