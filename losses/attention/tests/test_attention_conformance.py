"""Both losses under the suite of sequence losses: equal and other numbers of heads, layers and relation heads."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from kdtool_loss_attention import AttentionMaps, Relations
from kdtool_testing import SequenceLossConformance

STUDENT, TEACHER = SequenceLossConformance.student, SequenceLossConformance.teacher


class TestMaps(SequenceLossConformance):
    component = AttentionMaps
    entry_point = "attention"


class TestRelations(SequenceLossConformance):
    component = Relations
    entry_point = "relations"


class TestRelationsOfGroupedHeads(SequenceLossConformance):
    component = Relations
    entry_point = "relations"
    settings: ClassVar = {"layers": [0, 2], "teacher_layers": [1, 5]}
    student = replace(STUDENT, heads=4, kv_heads=2)
    teacher = replace(TEACHER, heads=6, kv_heads=2, head_size=4)
