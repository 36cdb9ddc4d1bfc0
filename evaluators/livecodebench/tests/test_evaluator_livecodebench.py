"""Right programs pass all tests of both types, others fail, and a pickle with anything but a text is refused."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from kdtool_evaluator_livecodebench import LiveCodeBench
from kdtool_programs import Problem, Sandbox, Task
from kdtool_testing import EvaluatorConformance, make_run
from kdtool_testing.sandbox import sandbox_is_there

needs_sandbox = pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def cases(kind: str, *pairs: tuple[str, str]) -> str:
    return json.dumps([{"input": given, "output": output, "testtype": kind} for given, output in pairs])


READS = {
    "question_title": "Halves",
    "question_content": "Print half of each number.",
    "platform": "atcoder",
    "question_id": "abc1_a",
    "contest_id": "abc1",
    "contest_date": "2024-05-04T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": cases("stdin", ("2\n3 5\n", "1.5 2.5\n")),
    "private_test_cases": packed(cases("stdin", ("1\n4\n", "2\n"), ("0\n\n", "\n"))),
    "metadata": "{}",
}
METHOD = READS | {
    "question_id": "2888",
    "contest_date": "2023-08-21T00:00:00",
    "starter_code": "class Solution:\n    def twice(self, words: List[str], n: int) -> List[str]:\n        ",
    "public_test_cases": cases("functional", ('["a"]\n2', '["aa"]')),
    "private_test_cases": cases("functional", ('["a", "b"]\n1', '["a", "b"]'), ("[]\n3", "[]")),
    "metadata": json.dumps({"func_name": "twice"}),
}


def write(folder: Path, records: Sequence[dict[str, str]]) -> Path:
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def problems(file: Path, **settings: Any) -> dict[str, Problem]:
    evaluator = LiveCodeBench(LiveCodeBench.Config(file=file, **settings))
    return {problem.id: problem for problem in evaluator.problems(make_run(file.parent))}


@needs_sandbox
class TestLiveCodeBench(EvaluatorConformance):
    component = LiveCodeBench
    entry_point = "livecodebench"
    settings: ClassVar[dict[str, Any]] = {"file": "test.jsonl", "maximum_tokens": 8, "after": "2023-01-01"}

    def prepare(self, folder: Path) -> dict[str, Any]:
        return {"file": str(write(folder, [READS, METHOD]))}

    def nothing_to_measure(self, folder: Path) -> Iterator[dict[str, Any]]:
        yield {"file": str(write(folder, [READS])), "after": "2030-01-01"}


_HALVES = "n = int(input())\nprint(*(x / 2 for x in map(int, input().split())))\n"
_READS_ALL = """\
def main():
    print(*(x / 2 for x in map(int, stdin.read().split()[1:])))
if __name__ == '__main__':
    main()
    exit(0)
"""
_READS_BYTES = """\
import sys
for x in sys.stdin.buffer.read().split()[1:]:
    sys.stdout.buffer.write(b'%g ' % (int(x) / 2))
sys.stdout.close()
"""
_READS_AS = {
    "input()": "print(int(input()) + int(input()))",
    "sys.stdin": "import sys\nprint(sum(map(int, sys.stdin)))",
    "sys.stdin.buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "open(0)": "print(sum(map(int, open(0))))",
    "open('/dev/stdin')": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "a path": "from pathlib import Path\nprint(sum(map(int, Path('/dev/stdin').read_text().split())))",
    "/proc": "print(sum(map(int, open('/proc/self/fd/0').read().split())))",
    "os.open": "import os\nprint(sum(map(int, os.read(os.open('/dev/stdin', os.O_RDONLY), 99).split())))",
    "os.read(0)": "import os\nprint(sum(map(int, os.read(0, os.fstat(0).st_size).split())))",
    "fileno": "import os, sys\nprint(sum(map(int, os.fdopen(sys.stdin.fileno()).read().split())))",
    "FileIO": "import io\nprint(sum(map(int, io.FileIO(0).read().split())))",
    "mmap": "import mmap\nprint(sum(map(int, mmap.mmap(0, 0, access=mmap.ACCESS_READ).read().split())))",
    "fileinput": "import fileinput\nprint(sum(map(int, fileinput.input())))",
}
_ADDS = "import atexit, os, sys, threading, time\nx = int(input()) + int(input())\n"
_PRINTS_AS = {
    "write": "sys.stdout.write(str(x))",
    "buffer": "sys.stdout.buffer.write(b'%d' % x)",
    "os.write(1)": "os.write(1, b'%d' % x)",
    "the first stdout": "import io\nsys.stdout = io.StringIO()\nsys.__stdout__.write(str(x))",
    "an open file": "out = open(1, 'w')\nout.write(str(x))",
    "/dev/stdout": "print(x, file=open('/dev/stdout', 'w'))",
    "FastIO": """
from io import BytesIO, IOBase
class FastIO(IOBase):
    def __init__(self, file):
        self._fd, self.buffer = file.fileno(), BytesIO()
        self.writable = "x" in file.mode or "r" not in file.mode
        self.write = self.buffer.write if self.writable else None
    def flush(self):
        os.write(self._fd, self.buffer.getvalue())
        self.buffer.truncate(0), self.buffer.seek(0)
class IOWrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastIO(file)
        self.flush = self.buffer.flush
        self.write = lambda s: self.buffer.write(s.encode("ascii"))
sys.stdout = IOWrapper(sys.stdout)
print(x)""",
    "atexit": "atexit.register(lambda: print(x))",
    "a thread": "threading.Thread(target=lambda: (time.sleep(0.05), print(x))).start()",
    "a pool": "from concurrent.futures import ThreadPoolExecutor\nThreadPoolExecutor().submit(print, x)",
    "a destructor": "class A:\n    def __del__(self): print(x)\na = A()",
    "__main__": "import __main__\nprint(__main__.x)",
    "sys.exit": "print(x)\nsys.exit(0)",
    "quit": "print(x)\nquit()",
    "os._exit": "print(x, flush=True)\nos._exit(0)",
    "a separate process": "assert not hasattr(os, 'seen')\nos.seen = print(x)",
    "much to stderr": "print('x' * 10**6, file=sys.stderr)\nprint(x)",
}
_FAIL = {
    "an exception": ("print(x)\n1 / 0", "RuntimeError: ZeroDivisionError: division by zero"),
    "an exit code": ("print(x, flush=True)\nos._exit(3)", "RuntimeError: the program ended with 3"),
    "output without end": ("while True: print('x' * 10**6)", "RuntimeError: the program ended with -25"),
    "its judge": ("import signal\nos.kill(os.getppid(), signal.SIGKILL)", "the program ended while it was tested"),
    "a daemon": ("threading.Thread(target=lambda: (time.sleep(9), print(x)), daemon=True).start()", "wrong answer"),
    "a missing module": ("import no_such\nprint(x)", "ModuleNotFoundError: No module named 'no_such'"),
}
_TWICE = "class Solution:\n    def twice(self, words: List[str], n: int) -> List[str]:\n        return {}\n"
_EQUALS_ALL = """\
class Any(list):
    def __eq__(self, other):
        return True
""" + _TWICE.format("Any()")
PROGRAMS = {
    "abc1_a": {
        _HALVES: True,
        _READS_ALL: True,
        _READS_BYTES: True,
        "print(*[int(x) / 2 for x in open(0).read().split()[1:]])": True,
        _HALVES.replace("/ 2", "/ 3"): False,
        f"{_HALVES}print()\nprint(1)\n": False,
        "print('1.5 2.5')": False,
        "raise SystemExit(0)": False,
        "def": False,
        "": False,
    },
    "2888": {
        _TWICE.format("[word * n for word in words]"): True,
        _TWICE.format("tuple(word * n for word in words)"): True,
        "def twice(words, n):\n    return [word * n for word in words]\n": True,
        "from __future__ import annotations\n" + _TWICE.format("[word * n for word in words]"): True,
        _TWICE.format("words"): False,
        _EQUALS_ALL: False,
        "": False,
    },
}


@needs_sandbox
def test_programs_are_judged_by_all_tests(tmp_path: Path) -> None:
    found = problems(write(tmp_path, [READS, METHOD]))
    works, expected = {}, set()
    for name, programs in PROGRAMS.items():
        for number, (code, is_right) in enumerate(programs.items()):
            works[f"{name} {number}"] = found[name].continued(code)
            expected |= {f"{name} {number}"} if is_right else set()
    with Sandbox(workers=2) as sandbox:
        verdicts = list(
            sandbox.run(Task(name, work, 20.0, LiveCodeBench.limits.memory) for name, work in works.items())
        )
    assert len(verdicts) == len(works)
    assert {verdict.id for verdict in verdicts if verdict.has_passed} == expected


@needs_sandbox
def test_programs_read_print_and_end_as_on_a_judge(tmp_path: Path) -> None:
    private = packed(cases("stdin", ("4\n5\n", "9\n")))
    record = READS | {"public_test_cases": cases("stdin", ("1\n2\n", "3\n")), "private_test_cases": private}
    problem = problems(write(tmp_path, [record]))["abc1_a"]
    right = _READS_AS | {name: _ADDS + code for name, code in _PRINTS_AS.items()}
    right |= {"__future__": f"from __future__ import annotations\n{right['input()']}"}
    programs = right | {name: _ADDS + code for name, (code, _) in _FAIL.items()}
    with Sandbox() as sandbox:
        tasks = [Task(name, problem.whole(code), 20.0, 2**30) for name, code in programs.items()]
        verdicts = {verdict.id: verdict for verdict in sandbox.run(tasks)}
    assert {name: verdict.reason for name, verdict in verdicts.items() if verdict.has_passed != (name in right)} == {}
    assert [name for name, (_, reason) in _FAIL.items() if reason not in verdicts[name].reason] == []


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({}, {"abc1_a", "2888"}),
        ({"after": "2024-05-04"}, {"abc1_a"}),
        ({"after": "2023-08-21", "before": "2024-05-04"}, {"2888"}),
    ],
)
def test_contests_are_chosen_by_date(window: dict[str, Any], expected: set[str], tmp_path: Path) -> None:
    assert problems(write(tmp_path, [READS, METHOD]), **window).keys() == expected


def test_prompts_are_those_of_the_type(tmp_path: Path) -> None:
    found = problems(write(tmp_path, [READS, METHOD]))
    reads, method = (found[name].forms for name in ("abc1_a", "2888"))
    assert reads["base"].prompt.endswith("### Question\nPrint half of each number.\n\n### Answer\n\n")
    assert "write the answer to stdout" in reads["chat"].turns[1][1]
    assert f"### Starter Code\n{METHOD['starter_code']}" in method["base"].prompt
    assert f"```python\n{METHOD['starter_code']}\n```" in method["chat"].turns[1][1]


class Dangerous:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


@pytest.mark.parametrize("value", [Dangerous(), ["a"]])
def test_a_pickle_with_anything_but_a_text_is_refused_and_not_run(
    value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        kdtool.UsageError, match=r"line 1: private_test_cases: its pickle contains.*expected JSON.*give one"
    ):
        problems(write(tmp_path, [READS | {"private_test_cases": packed(value)}]))
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"private_test_cases": "%"}, r"private_test_cases: .*expected JSON, or base64"),
        ({"contest_date": "soon"}, r"contest_date is 'soon'; expected a date"),
        ({"private_test_cases": cases("functional", ("1", "1"))}, r"has no tests, or of both types"),
        (
            {"public_test_cases": "[]", "private_test_cases": cases("functional", ("1", "1"))},
            r"metadata has no func_name",
        ),
    ],
)
def test_another_form_is_refused_with_the_line(change: dict[str, str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match=rf"livecodebench\.file: .*line 1: {expected}"):
        problems(write(tmp_path, [READS | change]))
