"""Code is found in answers as chat models write them; those of `chat_replies` are in the tests of continuations."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_programs import code_of

ADD = "def add(a, b):\n    return a + b"
FENCED = f"```python\n{ADD}\n```"
QUOTED = "\n".join(f"> {line}".rstrip() for line in FENCED.split("\n"))
HELPED = "def add(a, b):\n    return plus(a, b)"
ANSWERS = {
    "label in capitals": (f"```Python\n{ADD}\n```", ADD),
    "carriage returns": (FENCED.replace("\n", "\r\n"), ADD),
    "ends of lines of old Macs": (f"Sure:\r{FENCED}\rDone.".replace("\n", "\r"), ADD),
    "other breaks within lines": (f"```python\n{ADD}  # \x0c \x1c \u2028 x\n```", f"{ADD}  # \x0c \x1c \u2028 x"),
    "no fence, ends of lines of old Macs": (f"Sure:\r\r{ADD}\r\rDone it is.".replace("\n", "\r"), ADD),
    "__future__ in the second fence": (
        f"```python\ndef plus(a, b):\n    return a + b\n```\n```python\nfrom __future__ import annotations\n{HELPED}\n```",
        f"from __future__ import annotations\ndef plus(a, b):\n    return a + b\n{HELPED}",
    ),
    "no end, and cut off": ("```python\ndef add(a, b):\n    return (a +", "def add(a, b):\n    return (a +"),
    "attributes": (f'```python title="a.py"\n{ADD}\n```', ADD),
    "a fence in the documentation": (
        '```python\ndef add(a, b):\n    """Add.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n```',
        'def add(a, b):\n    """Add.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b',
    ),
    "a fence at the margin of the documentation": (
        '```python\ndef add(a, b):\n    """Add.\n\n```\nadd(1, 2)\n```\n    """\n    return a + b\n```\nDone.',
        'def add(a, b):\n    """Add.\n\n```\nadd(1, 2)\n```\n    """\n    return a + b',
    ),
    "a fence that nothing opened": (f"{ADD}\n```", ADD),
    "behind text on its line": (f"Like ```x``` here: ```python\n{ADD}\n```", ADD),
    "a shell before it": (f"```bash\npip install adder\n```\n{FENCED}", ADD),
    "a usage before it": (f"```python\nprint(add(1, 2))\n```\n{FENCED}", ADD),
    "a helper before it": (
        f"```python\ndef plus(a, b):\n    return a + b\n```\n```python\n{HELPED}\n```",
        f"def plus(a, b):\n    return a + b\n{HELPED}",
    ),
    "a helper behind it, with its import": (
        f"```python\n{HELPED}\n```\n```python\nfrom operator import add as plus\n```\n```python\nunused = 1\n```",
        f"{HELPED}\nfrom operator import add as plus",
    ),
    "reasoning without a beginning": (f"Maybe\n```python\ndef add(a): pass\n```\n</think>\n{FENCED}", ADD),
    "tags": (f"[PYTHON]\n{ADD}\n[/PYTHON]\nIt adds.", ADD),
    "a quotation": (f"So:\n{QUOTED}\n> Done", ADD),
    "code on the fence's line without a label": ("```def add(a, b):\n    return a + b\n```", ADD),
    "all on one line": ("```python def add(a, b): return a + b```", "def add(a, b): return a + b"),
    "no fence, an import and a blank line": (
        f"Sure, this adds:\nimport math\n\n{ADD}\n\n\nprint(add(1, 2))\nThis prints 3.",
        f"import math\n\n{ADD}\n\n\nprint(add(1, 2))",
    ),
    "only the usage in a fence": (f"{ADD}\n\nUse it so:\n```python\nadd(1, 2)\n```", ADD),
    "prose that begins like an import": (f"from my view that works:\n\n{ADD}\n\nDone.", ADD),
}


@pytest.mark.parametrize("form", ANSWERS)
def test_code_is_taken_out_of_an_answer(form: str) -> None:
    answer, code = ANSWERS[form]
    assert code_of(answer, continues=False, names=("add",)) == code


LOCAL = "def add(a, b):\n    n = a\n    return n + b"
USAGES = {
    "a local variable of the function": (LOCAL, "n = int(open(0).readline())"),
    "a result": (f"{ADD}\n\nif __name__ == '__main__':\n    print(result)", "result = add(1, None)"),
    "a built-in name": ("def add(a, b):\n    return sum([a, b])", "sum = 3"),
    "a variable of a comprehension": ("def add(a, b):\n    return [x for x in (a, b)][0] + b", "x = 1"),
}


@pytest.mark.parametrize("form", USAGES)
def test_usage_is_not_joined(form: str) -> None:
    code, usage = USAGES[form]
    answer = f"```python\n{code}\n```\nFor instance:\n```python\n{usage}\n```"
    assert code_of(answer, continues=False, names=("add",)) == code


@pytest.mark.parametrize(
    ("use", "definition"),
    [
        ("return (a + b) % MODULUS", "MODULUS = 7"),
        ("return [plus(x, b) for x in [a]][0]", "def plus(a, b):\n    return a + b"),
        ("def inner():\n        return plus(a, b)\n    return inner()", "from operator import add as plus"),
    ],
)
def test_globals_of_functions_are_joined(use: str, definition: str) -> None:
    code = f"def add(a, b):\n    {use}"
    answer = f"```python\n{definition}\n```\n```python\n{code}\n```"
    assert code_of(answer, continues=False, names=("add",)) == f"{definition}\n{code}"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```bash\npip install x\n```\n```java\nclass A {}\n```", "class A {}"),
        ("```\n```", ""),
        ("```java\n```", ""),
        ("class A {}\n```", "class A {}"),
        ("n = int(input())\nprint(n)\n``` \n", "n = int(input())\nprint(n)"),
        (
            "Of\n```\n3 4\n```\nit is 7:\n```python\nprint(sum(map(int, input().split())))\n```",
            "print(sum(map(int, input().split())))",
        ),
        ("Of\n```\n[3]\n```\nit is:\n```\nprint(int(input()) + 1)\n```", "print(int(input()) + 1)"),
        ("Of\n```\n3\n```\nit is 4:\n```\nn = int(input())\nprint(n + 1)\n```", "n = int(input())\nprint(n + 1)"),
        ("class A {}", "class A {}"),
        ("<think>Maybe\n```java\nclass B {}\n```</think>```java\nclass A {}\n```", "class A {}"),
    ],
)
def test_of_other_languages_the_first_fence_counts(answer: str, code: str) -> None:
    assert code_of(answer, continues=False) == code


def test_fences_that_define_a_name_each_are_joined() -> None:
    answer = "```python\nclass Box:\n    pass\n```\n```python\ndef boxed(x):\n    return Box()\n```"
    code = code_of(answer, continues=False, names=("boxed", "Box"))
    assert code == "class Box:\n    pass\ndef boxed(x):\n    return Box()"


@given(st.text(alphabet="`~>\n \tdefadd(ab):=[]/PYTHON<think>", max_size=120))
def test_no_answer_is_too_odd(answer: str) -> None:
    code_of(answer, continues=False, names=("add",))


def test_a_long_answer_takes_no_time() -> None:
    started = time.monotonic()
    code_of("import this and that\nThis is prose.\n" * 2000, continues=False, names=("add",))
    code_of("` `` " * 4000 + "```", continues=False, names=("add",))
    code_of("```python\nx = 1\n```\n" * 1000, continues=False, names=("add",))
    assert time.monotonic() - started < 10
