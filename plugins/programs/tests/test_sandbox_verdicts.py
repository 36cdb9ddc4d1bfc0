"""Passing and failing programs, and values that cross between program and tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kdtool_programs import Module, Sandbox, Task, Verdict

Judge = Callable[..., Verdict]
IDENTITY = "def f(x):\n    return x\n"


def test_right_program_passes_and_says_what_it_took(judge: Judge) -> None:
    verdict = judge("def f(x):\n    return x + 1\n", "assert f(1) == 2")
    assert (verdict.has_passed, verdict.status, verdict.isolation, verdict.reason) == (True, "passed", "isolated", "")
    assert 0 < verdict.cpu_seconds < 5
    assert 0 < verdict.wall_seconds < 30


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x):\n    return 3\n", "AssertionError"),
        ("def f(x):\n    return x / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(x:\n", "SyntaxError"),
        ("def g(x):\n    return 2\n", "NameError: name 'f' is not defined"),
        ("import sys\ndef f(x):\n    sys.exit(0)\n", "SystemExit"),
        ("import ctypes\ndef f(x):\n    ctypes.string_at(0)\n", "SIGSEGV"),
        ("\0", "null bytes"),
    ],
)
def test_wrong_program_fails_with_the_reason(judge: Judge, source: str, reason: str) -> None:
    verdict = judge(source, "assert f(1) == 2")
    assert verdict.status == "failed"
    assert reason in verdict.reason


def test_control_characters_of_a_program_reach_no_terminal(judge: Judge) -> None:
    verdict = judge("def f(x):\n    raise ValueError('\\x1b[2J\\u202e\\ud800ok')\n", "f(1)")
    assert verdict.reason == r"ValueError: \x1b[2J\x202e\xd800ok"


def test_failure_names_the_line_of_the_tests(judge: Judge) -> None:
    assert judge(IDENTITY, "f(1)\nassert f(1) == 2").stderr == "<tests>, line 2, in <module>\n"


def test_program_that_takes_too_long_is_timed_out(judge: Judge) -> None:
    verdict = judge("def f(x):\n    while True: pass\n", "f(1)", seconds=0.3)
    assert verdict.status == "timed out"
    assert verdict.reason == "no verdict within 0.3 s of processor time"


def test_tests_that_do_not_parse_are_refused(judge: Judge) -> None:
    assert judge(IDENTITY, "assert (").status == "refused"


def test_program_with_text_that_is_no_unicode_fails_alone(judge: Judge) -> None:
    assert judge("x = '\ud800'\n" + IDENTITY, "assert f(1) == 1").status == "failed"
    assert judge(IDENTITY, "assert f('\\ud800') == '\\ud800'").has_passed


@pytest.mark.parametrize("coding", ["utf-16", "no-such-coding"])
def test_program_that_names_a_coding_is_the_text_that_it_is(judge: Judge, coding: str) -> None:
    verdict = judge(f"# -*- coding: {coding} -*-\ndef f(x):\n    return 'é'\n", "assert f(1) == 'é'")
    assert verdict.has_passed, verdict


VALUES = """\
import datetime
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
for value in (
    None, True, 0, -1, 2**63, -(2**64), 7**10000, 1.5, -0.0, 1e308, float("inf"), "",
    "\\x00é\\U0001F600", b"\\xff", 1j, [], (),
    (1,), [[1], (2, [3])], {}, {1: 2, (1, 2): [3]}, set(), {1, "a"}, frozenset({1}), range(3, 2**70), bytearray(b"x"),
    Decimal("0.10"), Fraction(1, 3), deque([1]), Counter("aab"),
    OrderedDict([(2, 1), (1, 2)]), datetime.date(2020, 2, 29),
    datetime.datetime(2020, 1, 1, 1, 1, 1, 1, datetime.timezone.utc),
    datetime.timedelta(1, 2, 3), datetime.time(1), int, len,
):
    back = f(value)
    assert back == value and type(back) is type(value), repr(value)
nan = f(float("nan"))
assert nan != nan
function = lambda: 1
assert f(function) is function
"""


EXCHANGED = {
    "values come back as they are": (IDENTITY, VALUES),
    "objects of the tests are shown": (
        "def f(g):\n    seen = {}\n    seen[str((g,))] = g(1)\n    return f'{g} {g!r}', list(seen.values())\n",
        "def secret(x):\n    return x + 41\n"
        "assert f(secret) == (('<object of the tests> ' * 2).strip(), [42]), f(secret)",
    ),
    "functions of the tests are called back": (
        "def f(items, key):\n    return sorted(items, key=key)\n",
        "assert f([3, -5, 1], lambda x: -x) == [3, 1, -5]\nassert f([3, -5], abs) == [3, -5]",
    ),
    "functions of the tests call the program": (
        "def f(g):\n    return g(2)\n",
        "assert f(lambda n: f(lambda m: n * m)) == 4",
    ),
    "subclasses of plain types arrive as plain": (
        """
from collections import namedtuple, defaultdict
P = namedtuple('P', 'x y')
class N(int): pass
def f(x):
    d = defaultdict(list)
    d[1].append(N(2))
    return P(1, d)
""",
        "assert f(0) == (1, {1: [2]}) and type(f(0)) is tuple",
    ),
    "changes of arguments are copied back into the same objects": (
        "def f(a, b, c, d):\n    a.append(4); b['x'][0] = 5; c.add(6); d[0][0].clear()\n",
        """
a, inner, c, deep = [1], [0], {1}, [2]
b = {'x': inner}
assert f(a, b, c, ([deep],)) is None
assert (a, inner, c, deep) == ([1, 4], [5], {1, 6}, []) and b['x'] is inner
""",
    ),
    "objects stay with the program and can be used": (
        """
import re
class Node:
    def __init__(self, value):
        self.value, self.next = value, None
    def double(self):
        return 2 * self.value
    def __repr__(self):
        return f"Node({self.value})"
    def __setitem__(self, key, value):
        self.value = (key, value)
def f(kind):
    if kind == "node": return Node
    if kind == "generator": return (n * n for n in range(4))
    if kind == "match": return re.match("(a)(b)", "ab")
    return lambda x, *, y=1: x + y
""",
        """
Node = f("node")
first = Node(3)
assert first.value == 3 and first.double() == 6 and first == first and first != Node(3)
first.next = Node(4)
assert first.next.value == 4 and f"{first.next!r} {first.next}" == "Node(4) Node(4)"
first.next["a"] = [1]
assert first.next.value == ("a", [1])
assert list(f("generator")) == [0, 1, 4, 9] and next(f("generator")) == 0 and sum(f("generator")) == 14
assert f("match").groups() == ("a", "b") and f("match")[1] == "a"
assert f("")(1, y=5) == 6
""",
    ),
    "as many threads run as programs start": (
        """
import threading
from concurrent.futures import ThreadPoolExecutor
def f(x):
    together = threading.Barrier(50)
    def wait(number): return together.wait(20) >= 0 and len(bytearray(10**5)) > number
    with ThreadPoolExecutor(50) as pool: return all(pool.map(wait, range(50)))
""",
        "assert f(1)",
    ),
    "files that programs lock": (
        """
import fcntl, sqlite3, tempfile
def f(x):
    with tempfile.NamedTemporaryFile() as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_EX)
    with sqlite3.connect("kept.db") as base:
        base.execute("create table t (x)")
        base.execute("insert into t values (?)", (x,))
    return sqlite3.connect("kept.db").execute("select x from t").fetchall()
""",
        "assert f(1) == [(1,)]",
    ),
}


@pytest.mark.parametrize("name", EXCHANGED)
def test_program_and_tests_work_together_as_in_one_process(judge: Judge, name: str) -> None:
    verdict = judge(*EXCHANGED[name])
    assert verdict.has_passed, verdict


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("{1: [2], (3,): 4}.keys()", "found == {1, (3,)} and found and not isinstance(found, set)"),
        ("{1: [2]}.values()", "found != [[2]] and list(found) == [[2]] and len(found) == 1"),
        ("[type(one) for one in (None, 1, int)]", "found == [type(None), int, type]"),
        ("(..., NotImplemented)", "found[0] is ... and found[1] is NotImplemented"),
    ],
)
def test_what_builtins_give_is_what_it_is_elsewhere(judge: Judge, made: str, expected: str) -> None:
    verdict = judge(f"def f(x):\n    return {made}\n", f"found = f(1)\nassert {expected}, found")
    assert verdict.has_passed, verdict


LARGE = """\
def f(x):
    items = [str(n) * 1000 for n in range(2500)]
    if x == "whole": return items
    if x == "last": items[-1] = ""
    if x == "short": items.pop()
    if x == "tuple": return tuple(items)
    if x == "nested": return [[items]]
    return items
"""


def test_sequences_too_large_to_copy_are_compared_by_pieces(judge: Judge) -> None:
    tests = "items = [str(n) * 1000 for n in range(2500)]\nassert f('whole') == items and items == f('whole')\n"
    tests += "for x in ('last', 'short', 'tuple'):\n    assert f(x) != items\n"
    tests += "assert f('nested') == [[items]] != f('whole') and len(f('whole')) == 2500"
    verdict = judge(LARGE, tests, memory=2**31)
    assert verdict.has_passed, verdict


GUESSING = """\
import sys
messages, peer = (sys.modules[f"kdtool_programs.inside.{name}"] for name in ("messages", "peer"))
def f(x):
    guess = 0
    messages.write_message(4, ["value", {"pieces": [0, "list", 3, SIZE]}, None])
    while asked := messages.read_message(3):
        answer = {"pieces": [0, "list", 1, SIZE]}
        if asked[1] == "digest":
            answer = peer.digest([guess], 0, 1, bytes.fromhex(asked[2][3]["bytes"]))
            guess += 1
        elif asked[1] == "item":
            answer = {"slice": [0, 1, None]} if guess % 2 else [guess]
        messages.write_message(4, ["value", answer, None])
"""


@pytest.mark.parametrize("size", [3 * 2**18, 2**40])
@pytest.mark.parametrize("tests", ["assert f(1) == [1, 2, 0]", "assert f(1) in [[7], [1, 0, 0]]"])
def test_pieces_are_not_guessed(judge: Judge, size: int, tests: str) -> None:
    assert judge(GUESSING.replace("SIZE", str(size)), tests, seconds=2.0).status == "failed"


def test_tests_that_are_in_c_are_timed_out(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool_programs.sandbox._GRACE", 1.0)
    endless = Module(IDENTITY, "sum(range(f(2**62)))", ("f",))
    first, second = sandbox.run(
        [Task("endless", endless, 0.5), Task("next", Module(IDENTITY, "assert f(1) == 1", ("f",)))]
    )
    assert (first.status, first.reason) == ("timed out", "no verdict within 0.5 s of processor time")
    assert second.has_passed


def test_objects_of_the_tests_have_items_and_no_attributes_for_a_program(judge: Judge) -> None:
    source = "def f(x, y):\n    seen = getattr(y, 'low', 'none'), hasattr(y, 'low')\n"
    source += "    return (x[0] + x[-1] + len(x) + sum(x[1:]), 2 in x, *seen)\n"
    tests = "from array import array\nclass Own:\n    low = 1\n"
    assert judge(source, f"{tests}assert f(array('i', [1, 2, 4]), Own()) == (14, True, 'none', False)").has_passed
    verdict = judge("def f(x):\n    x.low = 2\n", f"{tests}f(Own())")
    assert (verdict.status, "not shown to programs" in verdict.reason) == ("failed", True)


@pytest.mark.parametrize(
    ("raising", "caught"),
    [
        ("raise KeyError('a')", "KeyError as e:\n    assert e.args == ('a',) and str(e) == repr('a')"),
        ("import json; json.loads('{')", "ValueError as e:\n    assert 'Expecting' in str(e)"),
        ("b'\\xff'.decode()", "UnicodeDecodeError as e:\n    assert (e.object, e.start) == (b'\\xff', 0)"),
        ("import decimal; decimal.Decimal(1) / 0", "ZeroDivisionError: pass"),
        (
            "raise type('Own', (KeyError,), {'__str__': lambda s: 'text'})('k')",
            "KeyError as e:\n    assert e.args == ('k',)",
        ),
        ("raise type('Odd', (Exception,), {})('why', 1)", "Exception as e:\n    assert e.args == ('why', 1)"),
        ("raise ValueError(object())", "ValueError as e:\n    assert 'object at' in str(e)"),
        ("raise ValueError('x' * 10**6)", "ValueError as e:\n    assert len(str(e)) == 2000"),
        ("raise StopIteration", "Exception: pass"),
    ],
)
def test_exceptions_arrive_as_the_nearest_builtin_kind(judge: Judge, raising: str, caught: str) -> None:
    verdict = judge(f"def f(x):\n    {raising}\n", f"try:\n    f(0)\nexcept {caught}\nelse:\n    assert False")
    assert verdict.has_passed, verdict


def test_an_exception_of_another_kind_is_not_taken_for_it(judge: Judge) -> None:
    sources = (
        "class ValueError(Exception): pass\ndef f(x): raise ValueError",
        "import builtins\nclass Odd(Exception): pass\nbuiltins.ValueError = Odd\ndef f(x): raise ValueError",
        "def f(x): raise type('Odd', (TypeError,), {})",
        "def f(x): raise type('Odd', (StopIteration,), {})",
        "import sys\ndef f(x): sys.exit()",
    )
    for source in sources:
        assert judge(source, "try:\n    f(0)\nexcept ValueError: pass").status == "failed", source


def test_helpers_are_the_tests_own(judge: Judge) -> None:
    source = "def twice(x):\n    return 5\ndef f(x):\n    return 5\n"
    assert not judge(source, "assert f(1) == twice(1)", helpers="def twice(x):\n    return 2 * x\n").has_passed


def test_tests_leave_nothing_in_the_process_that_runs_them(sandbox: Sandbox) -> None:
    leaving = {
        "builtins": "import builtins\nbuiltins.sorted = lambda x: 1\n",
        "own builtins": "__builtins__['len'] = lambda x: 1\n",
        "streams": "import sys\nsys.stdout = None\n",
        "recursion": "import sys\nsys.setrecursionlimit(50)\n",
        "folder": "import os\nos.mkdir('/tmp/d')\nos.chdir('/tmp/d')\n",
        "alarm": "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n",
        "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n",
        "child": "import os, time\nif os.fork() == 0:\n    time.sleep(9)\n",
        "memory": "x = bytearray(300 * 2**20)\nx[::4096] = bytes(len(x[::4096]))\n",
        "printing": "print('x' * 2**20)\nimport sys\nsys.stderr.write('y' * 2**20)\nsys.stdin.read()\n",
        "caught": "import time\ntry:\n    time.sleep(9)\nexcept BaseException: pass\n",
    }
    clean = "import sys, os, threading\nassert f([1, 2]) == len([1, 2]) == 2 and sys.stdout\n"
    clean += "assert os.listdir('/tmp') == [] and os.getcwd() == '/tmp' and threading.active_count() == 1"
    source = "def f(x):\n    return len(x)\n"
    for name, tests in leaving.items():
        tasks = [
            Task("leaving", Module(source, f"{tests}assert f([1]) == 1", ("f",)), 0.5 if name == "caught" else 30.0),
            Task("next", Module(source, clean, ("f",)), 30.0),
        ]
        first, second = sandbox.run(tasks)
        assert first.status == ("timed out" if name == "caught" else "passed"), (name, first)
        assert second.has_passed, (name, second)
