"""Log-probabilities of tokens that the student chose, by the servers' own interface: no states leave the server.

A request scores the ids of each position of one document (`prompt_logprob_token_ids`, vLLM 0.32).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import kdtool
import torch
from kdtool_teacher_openai.client import documents_of
from torch import Tensor

__all__ = ["Question", "decode", "join", "questions"]


class Question(NamedTuple):
    """Token ids of a document, the first position that is scored, and the ids to score from there on, at each position.

    `rows` has an entry for each position from `start` to the last but one: `rows[i]` may follow the token at `start + i`.
    """

    ids: Sequence[int]
    start: int
    rows: Sequence[Sequence[int]]


def questions(batch: kdtool.Batch, ids: Tensor) -> list[Question]:
    """Return a question for each document with labels; `ids` [labels, K] are the tokens to score, -1 pads."""
    chosen, found = ids.tolist(), []
    for piece in documents_of(batch):
        first, last = piece.places[0], piece.places[-1]
        by_place = dict(zip(piece.places, piece.targets, strict=True))
        rows = [chosen[by_place[at]] if at in by_place else [] for at in range(first, last + 1)]
        # The last token of a prompt is not scored, so one follows; which one makes no difference.
        found.append(Question((piece.tokens + piece.tokens[-1:])[: last + 2], first, rows))
    return found


def join(asked: Sequence[Question], answers: Sequence[Tensor], ids: Tensor) -> Tensor:
    """Return the answers [rows, K] to all questions of a batch as log-probabilities of `ids`, 0 at padding."""
    pairs = zip(asked, answers, strict=True)  # documents come in the order of the labels
    kept = [answer[[bool(row) for row in question.rows]] for question, answer in pairs]
    scores = torch.cat([torch.zeros(0, ids.shape[1]), *kept]).to(ids.device)
    return scores.clamp(max=0).masked_fill(ids < 0, 0)


def decode(text: str) -> Tensor:
    """Return the array of an answer: base64 of a .npy file.

    Raises:
        EOFError, TypeError, ValueError: it is something else.
    """
    import numpy as np

    return torch.from_numpy(np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False)).float()
