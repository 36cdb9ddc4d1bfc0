"""Modules under tests that were written for a known solution: what the tests use of it, and of its imports."""

from __future__ import annotations

from kdtool_programs import Module, Sandbox, Task, module_like

SOLUTION = """\
import math
from os import path
LIMIT, other = 3, 4
class Box: pass
def unused(): pass
def area(r):
    def inner(): pass
    return math.pi * r * r
"""
TESTS = "assert math.isclose(area(1), math.pi) and LIMIT == 3 and Box and inner and path"


def test_names_are_those_that_the_solution_defines_and_the_tests_use() -> None:
    module = module_like(SOLUTION, TESTS, "one = 1\n")("x = 1\n")
    assert module == Module("x = 1\n", TESTS, ("LIMIT", "Box", "area"), "one = 1\nimport math\nfrom os import path\n")


def test_names_that_the_tests_define_themselves_are_asked_of_no_program() -> None:
    solution = (
        "seen, inputs, top = 1, 2, 3\nclass Box: pass\ndef helper(): pass\ndef other(): pass\ndef area(r): pass\n"
    )
    tests = """
import math as other
class Box: pass
def reference(r):
    top = helper()
    return top
def helper(): return Box, seen
inputs = [1, 2]
area = area
for seen in inputs:
    assert area(seen) == reference(seen) == [area(x) for x in inputs][0]
"""
    assert module_like(solution, tests)("").names == ("area",)
    assert module_like("n = 1\ndef f(): pass\n", "for x in [n]:\n    n = f(x)\n")("").names == ("n", "f")
    method = "class T:\n    def test(self):\n        assert f()\nT().test()"
    assert module_like("def f(): pass\n", method)("").names == ("f",)


def test_another_module_passes_if_it_does_what_the_solution_does(sandbox: Sandbox) -> None:
    made = module_like("import math\ndef area(r): return math.pi * r * r\n", "assert math.isclose(area(1), math.pi)")
    right, wrong = "def area(radius): return 3.141592653589793 * radius ** 2\n", "def area(r): return 3\n"
    verdicts = sandbox.run([Task("right", made(right)), Task("wrong", made(wrong))])
    assert {verdict.id: verdict.has_passed for verdict in verdicts} == {"right": True, "wrong": False}
