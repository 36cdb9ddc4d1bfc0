"""For tests: the replies of the server with the Messages API, with their tokens and prices.

It answers with a line about the request, unless the system text asks for another form:

- a task, a program and tests (corpus `instruct`); a quarter of first programs is wrong
- a function as chat models write it (corpus `answers`); a tenth of the replies lacks code
- a verdict (filter `judge`); a tenth of its scores is low
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from typing import Any

from kdtool_testing.servers.chat_replies import UNUSABLE_REPLIES, chat_replies

MODEL = "claude-sonnet-4-0"
"""The model of most tests, which does not think."""
THINKING_MODEL = "claude-haiku-5-5"
"""A model that thinks unless it is switched off; prompts above 100,000 tokens cost five times as much."""
PRICES = {
    MODEL: (3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000),
    THINKING_MODEL: (100_000, 500_000, 10_000, 125_000, 200_000),
}
"""Picodollars per token: input, output, read from the cache, written for five minutes, for an hour."""
_LONG_PROMPT, _LONG_FACTOR = 100_000, 5
_THINKING = {"low": 8, "medium": 32, "high": 64, "xhigh": 128, "max": 256}
"""Tokens of thinking by effort."""
CACHED_FROM = 1024
"""Tokens of the shortest text that the cache stores."""


def count_text(text: str) -> int:
    """Return the server's count of a text's tokens."""
    return (len(text) + 3) // 4


def count_tokens(body: dict[str, Any]) -> int:
    """Return the server's count of a request's input tokens."""
    system = body.get("system", "")
    parts = [system] if isinstance(system, str) else [block["text"] for block in system]
    parts += [message["content"] for message in body["messages"]]
    return 5 + sum(count_text(part) + 2 for part in parts)


def thinking_tokens_of(body: dict[str, Any]) -> int:
    """Return the tokens that the model thinks before it answers."""
    if body["model"] != THINKING_MODEL or body.get("thinking") == {"type": "disabled"}:
        return 0
    return _THINKING[body.get("output_config", {}).get("effort", "medium")]


def price_of(model: str, usage: dict[str, Any], half: int) -> int:
    """Return the picodollars of a request, divided by `half`, which is 2 in a batch."""
    written = usage["cache_creation"]
    cached = usage["cache_read_input_tokens"]
    new = (usage["input_tokens"], written["ephemeral_5m_input_tokens"], written["ephemeral_1h_input_tokens"])
    counts = (new[0], usage["output_tokens"], cached, new[1], new[2])
    total = sum(count * price for count, price in zip(counts, PRICES[model], strict=True))
    if model == THINKING_MODEL and sum(new) + cached > _LONG_PROMPT:
        total *= _LONG_FACTOR
    return int(total // half)


def key_of(body: dict[str, Any]) -> str:
    """Return the hash of a request, the same whether its answer is streamed."""
    content = {name: value for name, value in body.items() if name != "stream"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_reply(body: dict[str, Any]) -> str:
    """Return a task, a verdict or code if the request wants one, else a line about the request."""
    turns = sum(message["role"] == "user" for message in body["messages"])
    system, key = _system_of(body), key_of(body)
    written = write_task(system, turns, key) or write_verdict(system, key)
    if written is None:
        written = write_code(system, _last_message(body), key)
    if written is not None:
        return written
    return f"answer {key_of(body)[:12]} to: {_last_message(body)[-40:]}"


def _system_of(body: dict[str, Any]) -> str:
    system = body.get("system", "")
    return system if isinstance(system, str) else "".join(block["text"] for block in system)


def _last_message(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


_CODE = {
    "python": "def {name}(number):\n    return number {sign} {amount}\n",
    "javascript": "function {name}(number) {{\n  return number {sign} {amount};\n}}\n",
    "java": "class Work {{\n  static int {name}(int number) {{\n    return number {sign} {amount};\n  }}\n}}\n",
    "cpp": "int {name}(int number) {{\n  return number {sign} {amount};\n}}\n",
    "go": "package work\n\nfunc {name}(number int) int {{\n\treturn number {sign} {amount}\n}}\n",
    "rust": "fn {name}(number: i64) -> i64 {{\n    number {sign} {amount}\n}}\n",
}
_TESTS = "assert {name}(1) == 1 + {amount}\nassert {name}(0) == {amount}\n"
_FAILING = 0.25
"""Share of first answers that are wrong: the tests fail, or the program does not parse. Repairs are right."""
_POOR = 0.1
"""Share of scores in verdicts that are low."""
_UNUSABLE = 0.1
"""Share of replies without code."""


def write_code(system: str, asked: str, key: str) -> str | None:
    """Return a reply to a request to complete a Python function, with prose and fences as `key` draws them.

    None if the system text asks for another form.
    """
    prompt = re.search(r"```python\n(.*)\n```", asked, re.DOTALL)
    if not system.startswith("You complete python code") or prompt is None:
        return None
    drawn = random.Random(key)
    last = prompt[1].rpartition("\n")[2]
    blanks = last[: len(last) - len(last.lstrip())]
    body = f"{blanks}result = {drawn.randrange(10**6)}\n{blanks}return result\n"
    try:
        replies = chat_replies(prompt[1], body)
    except SyntaxError:  # the prompt does not end with the documentation of a function
        replies = UNUSABLE_REPLIES
    if drawn.random() < _UNUSABLE:
        replies = UNUSABLE_REPLIES
    return replies[drawn.choice(sorted(replies))]


def write_task(system: str, turns: int, key: str) -> str | None:
    """Return a task with its answer, which depends only on `key`; None if the system text asks for another form."""
    language = system.partition("begin with ```")[2].partition(".")[0]
    if "<instruction>" not in system or language not in _CODE:
        return None
    drawn = random.Random(key)
    words = [f"{drawn.choice('bdfgklmnprst')}{drawn.choice('aeiou')}{drawn.randrange(1000)}" for _ in range(60)]
    about = {"name": words[0], "amount": drawn.randrange(1, 10**6)}
    fails, tested = turns == 1 and drawn.random() < _FAILING, "<tests>" in system
    code = _CODE[language].format(**about, sign="-" if fails and tested else "+")
    code = code.replace(")", "", 1) if fails and not tested else code
    tests = f"<tests>\n{_TESTS.format(**about)}</tests>\n" if tested else ""
    return (
        f"<instruction>\nWrite {words[0]}, which adds {about['amount']} to a number. Names: {' '.join(words[1:40])}.\n"
        f"</instruction>\n<response>\n```{language}\n{code}```\n{' '.join(words[40:])}\n</response>\n{tests}"
    )


def write_verdict(system: str, key: str) -> str | None:
    """Return scores for the criteria that a system text names; they depend only on `key`. None if it asks for no verdict."""
    form = re.search(r"^<verdict>\n((?:\w+: a score\n)+)", system, re.MULTILINE)
    if form is None:
        return None
    drawn = random.Random(key)
    names = [line.partition(":")[0] for line in form[1].splitlines()]
    scores = {name: 2 if drawn.random() < _POOR else drawn.choice((4, 5)) for name in names}
    lines = "".join(f"{name}: {score}\n" for name, score in scores.items())
    return f"<verdict>\n{lines}reason: The worst score is {min(scores.values())}.\n</verdict>"
