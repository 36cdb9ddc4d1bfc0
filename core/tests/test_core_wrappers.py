"""Wrappers: a component may wrap any hook of the others, in whichever way they are called."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import kdtool
import pytest
from kdtool._plugins.hook_specs import mistakes
from kdtool._plugins.hooks import ComponentHooks


class Doubles(kdtool.TokenLoss):
    """A loss."""

    def kdtool_token_loss(self, chunk: Any) -> Any:
        return 2 * chunk


class Notes(kdtool.Tracker):
    """Notes each call of a loss, and adds one to what it returns."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.noted: list[Any] = []

    @kdtool.hookimpl(wrapper=True)
    def kdtool_token_loss(self, chunk: Any, component: str) -> Generator[None, Any, Any]:
        answer = yield
        self.noted.append((component, chunk, answer))
        return answer + 1


class Tens(kdtool.Tracker):
    """Multiplies what losses return by ten."""

    @kdtool.hookimpl(wrapper=True)
    def kdtool_token_loss(self) -> Generator[None, Any, Any]:
        return 10 * (yield)


def test_a_wrapper_is_around_every_way_of_calling() -> None:
    notes = Notes(None)
    hooks = ComponentHooks({"a": Doubles(None), "notes": notes, "b": Doubles(None)})
    assert hooks.kdtool_token_loss(1) == {"a": 3, "b": 3}
    assert hooks.component("b", kdtool.TokenLoss).kdtool_token_loss(chunk=2) == 5  # type: ignore[arg-type]
    assert hooks.bound("kdtool_token_loss")["a"](3) == 7
    assert notes.noted == [("a", 1, 2), ("b", 1, 2), ("b", 2, 4), ("a", 3, 6)]
    assert hooks.implementing("kdtool_token_loss") == ("a", "b")


def test_the_first_wrapper_of_the_recipe_is_the_outermost_one_unless_it_asks_for_another_place() -> None:
    late = type("Late", (Tens,), {"kdtool_token_loss": kdtool.hookimpl(wrapper=True, trylast=True)(_tens)})
    for tens, expected in ((Tens, 30), (late, 21)):
        hooks = ComponentHooks({"tens": tens(None), "notes": Notes(None), "a": Doubles(None)})
        assert hooks.kdtool_token_loss(1) == {"a": expected}


def _tens(self: Any) -> Generator[None, Any, Any]:
    return 10 * (yield)


class Breaks(kdtool.Filter):
    """Fails beside others."""

    @kdtool.hookimpl(wrapper=True)
    def kdtool_token_loss(self) -> Generator[None, Any, Any]:
        yield
        raise ValueError("no profile")


def test_an_error_in_a_wrapper_names_the_component_that_wraps() -> None:
    hooks = ComponentHooks({"a": Doubles(None), "breaks": Breaks(None)})
    with pytest.raises(ValueError, match="no profile") as raised:
        hooks.kdtool_token_loss(1)
    assert raised.value.__notes__ == ["raised by filter 'breaks' (breaks) in its wrapper of kdtool_token_loss"]


def _tracker(**members: Any) -> type:
    return type("Wraps", (kdtool.Tracker,), members)


def _wrapper(function: Any) -> Any:
    return kdtool.hookimpl(wrapper=True)(function)


def _yields(self: Any, chunks: Any) -> Generator[None, Any, Any]:
    return (yield)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (_tracker(kdtool_token_loss=lambda self: None), "mark it with @kdtool.hookimpl(wrapper=True)"),
        (_tracker(kdtool_token_loss=_wrapper(_yields)), "did you mean 'chunk'"),
        (_tracker(kdtool_token_loss=_wrapper(lambda self, chunk: None)), "does not yield"),
        (_tracker(kdtool_token_los=_wrapper(_yields)), "which is not a hook"),
        (_tracker(kdtool_close=_wrapper(_tens)), "called on each component separately"),
    ],
)
def test_a_mistake_in_a_wrapper_is_named(cls: Any, message: str) -> None:
    (found,) = mistakes(cls, "tracker")
    assert message in found
    assert not list(mistakes(Notes, "tracker"))
