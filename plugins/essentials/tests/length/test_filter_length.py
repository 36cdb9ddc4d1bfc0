"""The filter `length`: the suite of filters, and each limit at its edge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import kdtool
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_essentials.length import LengthFilter
from kdtool_testing import FilterConformance, make_run


def reason(text: kdtool.Text | kdtool.Completion | kdtool.Messages, **settings: int) -> str | None:
    filter_ = LengthFilter(LengthFilter.Config.model_validate(settings))
    (answer,) = filter_.kdtool_filter(make_run(Path()), [kdtool.Example("a", text)])
    return answer


class TestLength(FilterConformance):
    component = LengthFilter
    entry_point = "length"
    settings: ClassVar = {"minimum": 3, "maximum": 30}

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        kept = [kdtool.Example("a", kdtool.Text("x = 1"))]
        return kept, [kdtool.Example("b", kdtool.Text("x")), kdtool.Example("c", kdtool.Text("x" * 31))]


@given(st.text(alphabet="ab\n ", max_size=40), st.integers(0, 20), st.integers(20, 40))
def test_characters_are_counted(text: str, minimum: int, maximum: int) -> None:
    within = len(text.strip()) >= minimum and len(text) <= maximum
    assert (reason(kdtool.Text(text), minimum=minimum, maximum=maximum, learned=0) is None) == within


def test_what_is_learned_is_counted_apart() -> None:
    talk = kdtool.Messages((("user", "Write it."), ("assistant", "ok")))
    assert reason(talk, learned=2) is None
    assert reason(talk, learned=3) == "fewer than 3 characters to learn"
    assert reason(kdtool.Completion("a long prompt", " ")) == "fewer than 1 characters to learn"


def test_a_long_line_is_rejected() -> None:
    assert reason(kdtool.Text("short\n" * 100), line=5) is None
    assert reason(kdtool.Text("short\nlonger\n"), line=5) == "a line longer than 5 characters"


def test_limits_that_leave_nothing_are_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="every text is rejected"):
        LengthFilter.Config(minimum=3, maximum=2)
