"""A loss across vocabularies, for tests: last hidden states where the tokens of both sides have read the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import kdtool
from kdtool_loss_across_tokenizers import meeting_points


class Meeting(kdtool.SequenceLoss):
    """Squared distance of normalised last states, projected, at the places where both sides have read the same text."""

    same_vocabulary = False
    needs = "hidden"
    met: list[tuple[str, int]] = []  # noqa: RUF012  # read by tests

    def kdtool_layers(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> Sequence[tuple[int, int]]:
        return [(student.layers - 1, teacher.layers - 1)]

    def kdtool_modules(self, student: kdtool.ModelFacts, teacher: kdtool.ModelFacts) -> Any:
        import torch

        return torch.nn.Linear(student.hidden, teacher.hidden, bias=False)

    def kdtool_sequence_loss(self, view: kdtool.StepView) -> kdtool.PerSequence:
        import torch

        assert view.teacher is not None
        assert view.module is not None
        (layers,) = view.layers
        own = view.module(view.student.hidden[layers[0]].float())
        theirs = view.teacher.hidden[layers[1]].float()
        values = own.new_zeros(view.batch.labels.shape[0]) + own.sum() * 0
        for row, i, j in meetings(view):
            distance = (
                torch.nn.functional.normalize(own[i], dim=0) - torch.nn.functional.normalize(theirs[j], dim=0)
            ).square()
            values = values + torch.nn.functional.one_hot(torch.tensor(row), len(values)) * distance.sum()
        return kdtool.PerSequence(values)


def meetings(view: kdtool.StepView) -> Iterator[tuple[int, int, int]]:
    """Yield row, own and teacher's number among the labelled positions where both have read the same bytes."""
    mine, theirs = places(view.batch), places(view.teacher_batch or view.batch)
    for key in mine.keys() & theirs.keys():
        own, other = mine[key], theirs[key]
        for i, j in meeting_points([at for at, _ in own], [at for at, _ in other]):
            Meeting.met.append((view.batch.row_keys[key[0]], own[i][0]))
            yield key[0], own[i][1], other[j][1]


def places(batch: kdtool.Batch) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return by row and document (bytes read, number of the labelled position)."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, (row, place) in enumerate((batch.labels != -100).nonzero().tolist()):
        key = (row, int(batch.document[row, place]))
        found.setdefault(key, []).append((int(batch.columns["byte_start"][row, place]), number))
    return found
