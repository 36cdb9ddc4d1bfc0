"""Values are close where numpy and EvalPlus' own scorer call them so, and a program cannot pretend to be close."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kdtool_programs import EVALPLUS_NUMPY, Module, Sandbox, Task
from kdtool_programs.problems import _ALLCLOSE

RTOL, ATOL = 1e-7, 1e-6
Close = Callable[[object, object, float, float], bool]
NUMBERS = (
    st.floats()
    | st.floats(-10, 10)
    | st.integers(-5, 5)
    | st.sampled_from([2**63 - 1, 2**63, 2**64, 10**30, -(2**63) - 1, 1 + 2j, complex("inf"), True, None, "", "a"])
)
VALUES = st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple))


def ours() -> Close:
    space: dict[str, Any] = {}
    exec(_ALLCLOSE, space)  # noqa: S102
    return space["allclose"]  # type: ignore[no-any-return]


def by_evalplus(out: Any, exp: Any, rtol: float, atol: float) -> bool:
    """Judge as evalplus.eval.unsafe_execute of EvalPlus 0.3.1 does where values are not equal."""
    if type(out) is not type(exp) or (isinstance(exp, list | tuple) and len(out) != len(exp)):
        return False
    with np.errstate(all="ignore"):
        return bool(np.allclose(out, exp, rtol=rtol, atol=atol))


def judge(close: Close, out: object, exp: object) -> bool:
    try:
        return close(out, exp, RTOL, ATOL)
    except Exception:
        return False


def shape(value: Any) -> tuple[int, ...] | None:
    try:
        return tuple(np.shape(value))
    except ValueError:
        return None


def move(value: Any, by: float) -> Any:
    """Return a value with its numbers moved by so much."""
    if isinstance(value, list | tuple):
        return type(value)(move(one, by) for one in value)
    return value + by if type(value) in (float, complex) else value


@given(VALUES, VALUES | st.floats(-2e-6, 2e-6))
@example([5.0], [float("inf")])
@example([], "")
@example([[]], [()])
@example([float("inf"), 1.0], 1e-7)
@example([float("nan")], 0.0)
@example(2**64, 0.0)
@example([2**64], 0.0)
def test_values_are_close_where_numpy_and_evalplus_say_so(exp: Any, other: Any) -> None:
    out = move(exp, other) if type(other) is float else other
    expected = judge(by_evalplus, out, exp)
    if shape(out) == shape(exp):
        assert judge(ours(), out, exp) == expected
    else:
        assert not judge(ours(), out, exp)


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("[x / 3 + 1e-8, math.inf]", True),
        ("[x / 3 + 1e-8, 5.0]", False),
        ("(x / 3 + 1e-8, math.inf)", False),
        ("Lying(2)", False),
        ("''", False),
    ],
)
def test_programs_cannot_pretend_to_be_close(answer: str, passes: bool, needs_bubblewrap: None) -> None:
    lying = (
        "import math\nclass Lying:\n    def __init__(self, size): self.size = size\n"
        "    def __len__(self): return self.size\n    def __iter__(self): return iter([])\n"
    )
    source = f"{lying}def f(x):\n    return {answer}\n"
    by_numpy = "import numpy as np\nassert np.allclose(f(1.0), [1 / 3, float('inf')], rtol=1e-7, atol=1e-6)\n"
    with Sandbox() as sandbox:
        (verdict,) = sandbox.run([Task("numpy", Module(source, by_numpy, ("f",), EVALPLUS_NUMPY), 60.0)])
    assert verdict.has_passed == passes
