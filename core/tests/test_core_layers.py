"""Choice of the layers to compare, and the signals that a phase requests for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_testing import ListSource

SMALL = kdtool.ModelFacts(1000, 1000, 6, 8, 2, 2, 16, 50, 64, "float32", True, "t")
LARGE = replace(SMALL, layers=24, hidden=16)


def test_layers_follow_what_they_were_copied_from_else_they_are_spread() -> None:
    copied = replace(SMALL, copied_layers=(0, 1, 8, 18, 20, 23))
    assert kdtool.pair_layers("x.layers", (2, 5), copied, LARGE) == ((2, 8), (5, 23))
    assert kdtool.pair_layers("x.layers", (2, 5), SMALL, LARGE) == ((2, 8), (5, 20))
    assert kdtool.pair_layers("x.layers", (5,), replace(copied, hidden=32), LARGE) == ((5, 20),)
    assert [own for own, _ in kdtool.pair_layers("x.layers", "auto", SMALL, LARGE)] == [1, 3, 4]


@pytest.mark.parametrize("layers", [(6,), (1, 1), ()])
def test_layers_that_are_not_there_are_refused_by_the_name_of_their_setting(layers: tuple[int, ...]) -> None:
    with pytest.raises(kdtool.UsageError, match=r"mine\.layers is \[.*0 to 5"):
        kdtool.pair_layers("mine.layers", layers, SMALL, LARGE)


@dataclass
class Source:
    want: kdtool.SignalRequest

    def signal(self, batch: kdtool.Batch) -> kdtool.Signal:
        return kdtool.Signal("t")


def test_a_student_is_asked_for_what_teachers_are_asked_for_in_the_layers_of_terms(tmp_path: Path) -> None:
    inside: frozenset[kdtool.SignalKind] = frozenset({"attentions", "hidden"})
    source: Any = {
        "a": Source(kdtool.SignalRequest(inside | {"logits"}, (7,))),
        "b": Source(kdtool.SignalRequest(frozenset({"logits"}))),
    }
    terms = (
        kdtool.LossTerm("maps", "maps", 1.0, teacher="a", layers=((3, 7), (1, 7))),
        kdtool.LossTerm("kl", "kl", 1.0, teacher="b"),
        kdtool.LossTerm("ce", "ce", 1.0),
    )
    phase = kdtool.Phase("p", 1, terms, ListSource([kdtool.Row("a", [1], [True], [0])]), source, tmp_path)
    assert phase.student_request == kdtool.SignalRequest(inside, (1, 3))
    assert replace(phase, terms=terms[1:]).student_request == kdtool.SignalRequest()
