"""Tasks with programs, verdicts, and replies with code, as the test server writes them if a request asks for them."""

from __future__ import annotations

import random
import re

from kdtool_asking.testing import UNUSABLE_REPLIES, chat_replies

__all__ = ["write_code", "write_task", "write_verdict"]

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
