"""Measurements of students in studies: figures on files that none of them saw, document by document."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import kdtool
from kdtool_measuring import Item, held_out, make_measurement
from kdtool_torch import NO_LABEL, collate
from kdtool_transformers import TransformersModel
from setting import logits, run_with_teacher, teacher_of
from torch import Tensor

DOCUMENTS, TOKENS = 32, 96
"""Held-out documents, and tokens of each that are predicted."""


class Measure(NamedTuple):
    """A measurement of a student on a document, per token."""

    unit: str
    higher_is_better: bool


MEASURES = {
    "nats": Measure("nats per token of the text", higher_is_better=False),
    "kl": Measure("nats per token, KL(teacher ‖ student)", higher_is_better=False),
    "agreement": Measure("fraction of tokens with the teacher's first choice", higher_is_better=True),
}


class HeldOut:
    """Test files that no student has seen, and what the teacher says about them."""

    def __init__(self, folder: Path) -> None:
        self._run = run_with_teacher(folder, "auto")

    @cached_property
    def teacher(self) -> TransformersModel:
        """The teacher; loads at first use."""
        return teacher_of(self._run)

    @cached_property
    def _told(self) -> list[tuple[kdtool.Batch, Tensor]]:
        """A batch a document, and the teacher's log-probabilities [N, V] (some 600 MB in all)."""
        found = []
        for document in held_out(self._run, "test", most=DOCUMENTS, characters=8 * TOKENS):
            ids = [self.teacher.tokenizer.end_of_text, *self.teacher.tokenizer.encode(document.text)][: TOKENS + 1]
            batch = collate([kdtool.Row(document.id, ids, [True] * len(ids), [0] * len(ids))])
            found.append((batch, logits(self.teacher, batch).log_softmax(-1)))
        return found

    def figures(self, student: TransformersModel) -> Iterator[tuple[str, dict[str, float], int]]:
        """Yield each document's id, its measures summed over its tokens, and their number."""
        for batch, theirs in self._told:
            own = logits(student, batch).log_softmax(-1)
            labels = batch.labels[batch.labels != NO_LABEL]
            sums = {
                "nats": -own.gather(-1, labels[:, None]).sum(),
                "kl": (theirs.exp() * (theirs - own)).sum(),
                "agreement": (theirs.argmax(-1) == own.argmax(-1)).sum(),
            }
            yield batch.row_keys[0], {name: float(value) for name, value in sums.items()}, len(labels)

    def measure(self, student: TransformersModel, name: str, seed: int) -> list[kdtool.Measurement]:
        """Measure a student, and write what it got on each document into the folder."""
        found = list(self.figures(student))
        subject = kdtool.Subject(name, "student", seed=seed)
        return [
            make_measurement(
                [Item(document, sums[measure], count) for document, sums, count in found],
                self._run,
                subject,
                name=measure,
                unit=about.unit,
                higher_is_better=about.higher_is_better,
                settings={},
            )
            for measure, about in MEASURES.items()
        ]
