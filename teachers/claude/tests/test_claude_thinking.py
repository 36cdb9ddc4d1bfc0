"""Thinking and effort of the teacher `claude`: what is sent, charged and refused, and prices of long prompts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import kdtool
import pydantic
import pytest
from claude_asking import Ask, opened, requests
from kdtool_teacher_claude import Claude
from kdtool_testing import make_run
from kdtool_testing.servers.claude_api import MessagesServer
from kdtool_testing.servers.claude_replies import MODEL, THINKING_MODEL


@pytest.mark.parametrize("max_tokens", [256, 9000])  # the longer ones are streamed
@pytest.mark.parametrize("mode", ["messages", "batches"])
def test_thinking_is_charged_and_in_the_ledger(
    ask: Ask, server: MessagesServer, tmp_path: Path, mode: str, max_tokens: int
) -> None:
    with ask.opened(model=THINKING_MODEL, mode=mode) as teacher:
        found = list(teacher.kdtool_answer(requests(5, max_tokens=max_tokens)))
        assert all(one.finish == "stop" and one.text.startswith("answer ") for one in found)
        account = teacher.kdtool_account(make_run(tmp_path))
    assert not any({"thinking", "output_config"} & body.keys() for body in server.bodies), "the model's defaults"
    assert ask.ledger.spent == server.bill.picodollars == sum(one.picodollars for one in found)
    assert account is not None
    assert account["thinking_tokens"] == ask.ledger.thinking == 5 * 32
    assert all(one.tokens_out > 32 for one in found), "thinking is part of the output"


def test_effort_and_thinking_are_sent_and_their_answers_kept_apart(ask: Ask, server: MessagesServer) -> None:
    choices: list[dict[str, Any]] = [{}, {"thinking": "off"}, {"effort": "low"}, {"thinking": "off", "effort": "high"}]
    thought = []
    for settings in choices:
        ask(1, model=THINKING_MODEL, **settings)
        thought.append(ask.ledger.thinking)
    assert thought == [32, 32, 40, 40]
    sent = [{name: body[name] for name in ("thinking", "output_config") if name in body} for body in server.bodies]
    off, high = {"thinking": {"type": "disabled"}}, {"output_config": {"effort": "high"}}
    assert sent == [{}, off, {"output_config": {"effort": "low"}}, {**off, **high}]


def test_thinking_cuts_answers_off_unless_it_has_room(ask: Ask, server: MessagesServer, tmp_path: Path) -> None:
    answers = []
    for room in (0, 400):
        with ask.opened(model=THINKING_MODEL, effort="max", thinking_tokens=room) as teacher:
            answers += list(teacher.kdtool_answer(requests(1, max_tokens=200)))
            (estimate,) = teacher.estimate_answers(make_run(tmp_path), requests(1, max_tokens=200, first=9))
        assert ("may think" in estimate.note) == (not room)
    assert [one.finish for one in answers] == ["length", "stop"]
    assert [body["max_tokens"] for body in server.bodies] == [200, 600]
    assert ask.ledger.spent == server.bill.picodollars


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        ("claude-opus-5-5", {"thinking": "off"}, "thinking: .* always thinks .*; set effort: low"),
        (
            "claude-haiku-5-5",
            {"thinking": "off", "effort": "max"},
            "effort: .* does not take 'max', only low, medium, high",
        ),
        ("claude-haiku-4-5", {"effort": "low"}, "effort: .* does not take it; leave it out"),
        ("claude-haiku-4-5", {"thinking": "adaptive"}, "thinking: .* does not take `adaptive`; leave it out"),
    ],
)
def test_settings_that_a_model_does_not_take_are_refused(model: str, settings: Any, expected: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=expected):
        Claude.Config(model=model, budget_usd=Decimal(1), **settings)


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        (MODEL, None),
        ("claude-haiku-5-5", "disabled"),
        ("claude-sonnet-5-5", "between_tools"),
        ("claude-opus-5", "disabled"),
    ],
)
def test_each_model_is_told_to_think_less_in_its_own_way(model: str, sent: str | None, tmp_path: Path) -> None:
    with opened("http://127.0.0.1:1", tmp_path, model=model, thinking="off") as teacher:
        (asked,) = teacher._prepare(requests(1), "text")
    assert asked.body.get("thinking", {}).get("type") == sent


def test_defaults_keep_the_keys_of_older_answers() -> None:
    plain = Claude(Claude.Config(model=THINKING_MODEL, budget_usd=Decimal(1)))
    assert plain.answer_cache_key is not None
    assert plain.answer_cache_key.keys() == {"model", "system", "protocol"}
    (request,) = requests(1)
    for settings in ({"thinking": "off"}, {"effort": "low"}, {"thinking_tokens": 9}):
        assert Claude(Claude.Config(model=THINKING_MODEL, budget_usd=Decimal(1), **settings)).answer_key(request) != (
            plain.answer_key(request)
        )


def test_long_prompts_are_forecast_and_charged_at_their_own_price(
    ask: Ask, server: MessagesServer, tmp_path: Path
) -> None:
    long = kdtool.Request("long", "word " * 100_000, 256)
    with ask.opened(model=THINKING_MODEL, thinking="off") as teacher:
        run = make_run(tmp_path)
        (mixed,) = teacher.estimate_answers(run, [*requests(1), long])
        (short,) = teacher.estimate_answers(run, requests(1))
        (alone,) = teacher.estimate_answers(run, [long])
        list(teacher.kdtool_answer([*requests(1), long]))
    assert mixed.picodollars == short.picodollars + alone.picodollars
    assert alone.picodollars > 5 * 100_000 * 100_000, "above 100,000 tokens each costs five times as much"
    assert ask.ledger.spent == server.bill.picodollars
