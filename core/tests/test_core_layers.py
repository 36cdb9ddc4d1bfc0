"""The signals that a phase requests of a student for layers that losses compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kdtool
from kdtool_testing import ListSource


@dataclass
class Source:
    want: kdtool.SignalRequest

    def signal(self, batch: kdtool.Batch, chosen: object = None) -> kdtool.Signal:
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
