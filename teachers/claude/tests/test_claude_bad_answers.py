"""Answers that are not the API's, limits without end, keys that cannot be sent: a sentence each, and nothing is lost."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import kdtool
import pytest
from aiohttp import web
from claude_asking import Ask, requests
from kdtool_teacher_claude import _messages
from kdtool_testing.servers.claude import serve
from kdtool_testing.servers.claude_api import Faults, MessagesServer
from kdtool_testing.servers.claude_replies import MODEL

PAGE = "<html><body><h1>Bad gateway</h1></body></html>"


def replace_answers(server: MessagesServer, answer: Callable[[web.Request], web.Response | None]) -> None:
    """Have the server give these answers, and its own where one is None."""
    server._refuse = answer  # type: ignore[assignment, method-assign]


def page(status: int) -> web.Response:
    return web.Response(status=status, text=PAGE, content_type="text/html")


def message(text: str, **changed: Any) -> web.Response:
    usage = {"input_tokens": 10, "output_tokens": 5}
    content = [{"type": "text", "text": text}]
    return web.json_response({"content": content, "stop_reason": "end_turn", "usage": usage, **changed})


def of_message(request: web.Request) -> bool:
    return request.path == "/v1/messages"


@pytest.mark.parametrize("status", [302, 401, 403, 404, 407])
def test_a_proxy_s_web_page_does_not_blame_the_key_or_the_model(ask: Ask, server: MessagesServer, status: int) -> None:
    replace_answers(server, lambda request: page(status))
    with pytest.raises(kdtool.ServiceError, match="a web page, perhaps of a proxy"):
        ask(3, retries=0)
    replace_answers(server, lambda request: page(status) if of_message(request) else None)
    with pytest.raises(kdtool.ServiceError, match="a web page, perhaps of a proxy") as stopped:
        ask(3, retries=0)
    assert "html" not in str(stopped.value)
    assert server.bodies == []


@pytest.mark.parametrize(
    ("fault", "state"),
    [
        ("reset_before", "unknown"),
        ("reset_after", "unknown"),
        ("broken_json", "unknown"),
        ("error_charged", "unknown"),
        ("overloaded", "failed"),
        ("bad_request", "failed"),
    ],
)
def test_money_is_held_for_what_may_have_been_charged_alone(
    ask: Ask, server: MessagesServer, fault: str, state: str
) -> None:
    setattr(server.faults, fault, 1.0)
    with suppress(kdtool.ServiceError):
        ask(1, retries=0)
    seen = ask.ledger
    assert (seen.attempts, seen.held > 0) == ({state: 1}, state == "unknown")


def test_an_attempt_is_on_disk_before_it_is_sent(ask: Ask, server: MessagesServer) -> None:
    open_attempts: list[int] = []

    def look(request: web.Request) -> None:
        if of_message(request):
            open_attempts.append(ask.ledger.attempts.get("open", 0))

    replace_answers(server, look)
    ask(20, concurrency=1)
    assert open_attempts == [1] * 20


def test_a_small_budget_makes_requests_wait_for_each_other_s_reservations(ask: Ask, server: MessagesServer) -> None:
    server.faults = Faults(delay=0.01)
    with ask.opened(budget_usd="0.0085") as teacher:  # two requests at a time
        assert len(list(teacher.kdtool_answer(requests(10)))) == 10
    assert server.bill.most_under_way <= 2
    assert ask.ledger.spent == server.bill.picodollars


@pytest.mark.parametrize("mode", ["messages", "batches"])
def test_no_answer_costs_more_than_was_reserved_for_it(
    ask: Ask, server: MessagesServer, tmp_path: Path, mode: str
) -> None:
    asked = [kdtool.Request(f"r{i}", f"long {i} " * 2000, 4) for i in range(4)]
    assert len(ask(asked, mode=mode, system="Answer well. " * 500)) == 4
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as database:
        moves = database.execute("SELECT reserved, cost FROM attempt").fetchall()
    assert sum(cost for _, cost in moves) == server.bill.picodollars
    assert all(reserved >= cost > 0 for reserved, cost in moves)


def test_what_never_left_this_machine_is_not_held_against_the_budget(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ask = Ask(stack.enter_context(serve()).url, tmp_path)
        with ask.opened(retries=0) as teacher:
            assert len(list(teacher.kdtool_answer(requests(1)))) == 1
            stack.close()
            time.sleep(0.2)  # until the connection is known to be closed
            with pytest.raises(kdtool.ServiceError, match="cannot be reached"):
                list(teacher.kdtool_answer(requests(2)))
    seen = ask.ledger
    assert (seen.attempts, seen.held) == ({"answered": 1, "failed": 1}, 0)


def test_a_redirection_is_not_followed_so_that_the_key_stays_here(ask: Ask, server: MessagesServer) -> None:
    seen: list[str] = []

    def redirect(request: web.Request) -> web.Response | None:
        seen.append(request.path)
        return web.Response(status=307, headers={"location": "/v1/messages/elsewhere"}) if of_message(request) else None

    replace_answers(server, redirect)
    with pytest.raises(kdtool.ServiceError, match=r"answers 307 .*not as the API does"):
        ask(1, concurrency=1)
    assert seen == [f"/v1/models/{MODEL}", "/v1/messages"]
    assert ask.ledger.held == 0


@pytest.mark.parametrize("status", [200, 502])
def test_a_web_page_in_place_of_an_answer_is_asked_again(ask: Ask, server: MessagesServer, status: int) -> None:
    number = count()
    replace_answers(server, lambda request: page(status) if of_message(request) and next(number) < 2 else None)
    assert len(ask(2, retries=3, concurrency=1)) == 2
    unknown = ask.ledger.unknown
    assert len(unknown) == 2, "a 200 or a 5xx may have been charged"
    assert all("a web page" in one.reason for one in unknown)


@pytest.mark.parametrize("mode", ["messages", "batches"])
@pytest.mark.parametrize("status", [408, 409, 425])
def test_a_transient_refusal_is_tried_again_and_costs_nothing(
    ask: Ask, server: MessagesServer, status: int, mode: str
) -> None:
    number = count()
    refusal = {"error": {"type": "api_error", "message": "later"}}

    def refuse_twice(request: web.Request) -> web.Response | None:
        asks = request.method == "POST" and next(number) < 2
        return web.json_response(refusal, status=status) if asks else None

    replace_answers(server, refuse_twice)
    assert [one.finish for one in ask(2, mode=mode, retries=3, concurrency=1)] == ["stop", "stop"]
    assert (ask.ledger.spent, ask.ledger.held) == (server.bill.picodollars, 0)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"usage": None}, "how many tokens"),
        ({"usage": {"input_tokens": -1, "output_tokens": 1}}, "how many tokens"),
        ({"stop_reason": None}, "cut off"),
        ({"content": None}, "not a message"),
    ],
)
def test_a_message_that_lacks_what_the_ledger_needs_is_no_answer(
    ask: Ask, server: MessagesServer, changed: dict[str, Any], reason: str
) -> None:
    number = count()
    replace_answers(
        server, lambda request: message("x", **changed) if of_message(request) and not next(number) else None
    )
    (found,) = ask(1, concurrency=1)
    assert found.text.startswith("answer")
    assert [one for one in ask.ledger.unknown if reason in one.reason]


def test_an_answer_may_be_empty_or_hold_any_character(ask: Ask, server: MessagesServer) -> None:
    texts = iter(["", "\0\x85\u2028\ud800 \U0001f600", "x" * 5_000_000])
    replace_answers(server, lambda request: message(next(texts)) if of_message(request) else None)
    with ask.opened(concurrency=1) as teacher:
        first = [one.text for one in teacher.kdtool_answer(requests(3))]
        assert [one.text for one in teacher.kdtool_answer(requests(3))] == first
    assert first == ["", "\0\x85\u2028\N{REPLACEMENT CHARACTER} \U0001f600", "x" * 5_000_000]


def test_refusals_for_the_rate_are_waited_for_and_are_no_failures(ask: Ask, server: MessagesServer) -> None:
    number = count()
    storm = server._error(429, "rate_limit_error", "too many")
    replace_answers(server, lambda request: _copy(storm) if of_message(request) and next(number) < 4 else None)
    assert len(ask(1, retries=0, concurrency=1)) == 1
    seen = ask.ledger
    assert (seen.attempts, seen.held) == ({"answered": 1, "failed": 4}, 0)


def test_refusals_for_the_rate_without_an_end_end_the_run(
    ask: Ask, server: MessagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_messages, "_LONGEST_SILENCE", 0.3)
    storm = server._error(429, "rate_limit_error", "too many")
    replace_answers(server, lambda request: _copy(storm) if of_message(request) else None)
    with pytest.raises(kdtool.ServiceError, match=r"attempts: 429: too many; run again later") as stopped:
        ask(3)
    assert stopped.value.exit_code == 5


def _copy(response: web.Response) -> web.Response:
    return web.Response(status=response.status, body=response.body, content_type=response.content_type)


def test_line_ends_of_unicode_do_not_cut_the_lines_of_results(ask: Ask) -> None:
    asked = [kdtool.Request(f"r{i}", f"a\u2028b\x85c\x0bd {i}", 99) for i in range(3)]
    found = ask(asked, mode="batches")
    assert all("a\u2028b\x85c\x0bd" in one.text for one in found)
    assert ask.ledger.attempts == {"answered": 3}


def test_a_batch_whose_results_are_gone_is_unknown_and_asked_again(ask: Ask, server: MessagesServer) -> None:
    with ask.opened(mode="batches") as teacher:
        replace_answers(server, lambda request: page(502) if "/batches/" in request.path else None)
        teacher.config = teacher.config.model_copy(update={"retries": 0})
        with pytest.raises(kdtool.ServiceError, match="Nothing is lost"):
            list(teacher.kdtool_answer(requests(4)))
    server._batches.clear()
    replace_answers(server, lambda request: None)
    assert {one.finish for one in ask(4, mode="batches", on_unknown="skip")} == {"refused"}
    assert {one.finish for one in ask(4, mode="batches")} == {"stop"}
    assert ask.ledger.attempts == {"unknown": 4, "answered": 4}


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-\u2026", "sk-\x7f"])
def test_a_key_that_no_header_holds_is_refused_at_once(ask: Ask, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    begun = time.monotonic()
    with pytest.raises(
        kdtool.AuthenticationError, match=r"key in ANTHROPIC_API_KEY has characters.*copy it"
    ) as stopped:
        ask(1)
    assert "sk-" not in str(stopped.value)
    assert time.monotonic() - begun < 5


def test_a_stored_answer_that_was_changed_is_named_and_bought_again(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(2)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as database, database:
        database.execute("UPDATE answer SET answer = answer || ' ' WHERE rowid = 1")
    assert len(ask(2)) == 2
    assert "claude: 1 answer in ledger.sqlite changed on disk" in capsys.readouterr().out
    assert ask.ledger.attempts == {"answered": 3}
