"""Choice of the layers to compare."""

from __future__ import annotations

from dataclasses import replace

import kdtool
import pytest
from kdtool_torch import pair_layers

SMALL = kdtool.ModelFacts(1000, 1000, 6, 8, 2, 2, 16, 50, 64, "float32", True, "t")
LARGE = replace(SMALL, layers=24, hidden=16)


def test_layers_follow_what_they_were_copied_from_else_they_are_spread() -> None:
    copied = replace(SMALL, copied_layers=(0, 1, 8, 18, 20, 23))
    assert pair_layers("x.layers", (2, 5), copied, LARGE) == ((2, 8), (5, 23))
    assert pair_layers("x.layers", (2, 5), copied, replace(LARGE, hidden=32)) == ((2, 8), (5, 23)), (
        "it was cut in width"
    )
    for other in (replace(LARGE, hidden=4), replace(LARGE, tokenizer_fingerprint="other")):
        assert pair_layers("x.layers", (2, 5), copied, other) == ((2, 8), (5, 20)), "copied from another teacher"
    assert pair_layers("x.layers", (2, 5), SMALL, LARGE) == ((2, 8), (5, 20))
    assert pair_layers("x.layers", (5,), SMALL, replace(SMALL, layers=2)) == ((5, 1),)


@pytest.mark.parametrize(("layers", "chosen"), [(1, [0]), (2, [0]), (3, [1]), (4, [1, 2]), (5, [1, 3]), (6, [1, 3, 4])])
def test_auto_takes_every_second_layer_and_leaves_the_last(layers: int, chosen: list[int]) -> None:
    assert [own for own, _ in pair_layers("x.layers", "auto", replace(SMALL, layers=layers), LARGE)] == chosen


@pytest.mark.parametrize("layers", [(6,), (1, 1), ()])
def test_layers_that_are_not_there_are_refused_by_the_name_of_their_setting(layers: tuple[int, ...]) -> None:
    with pytest.raises(kdtool.UsageError, match=r"mine\.layers is \[.*0 to 5"):
        pair_layers("mine.layers", layers, SMALL, LARGE)
