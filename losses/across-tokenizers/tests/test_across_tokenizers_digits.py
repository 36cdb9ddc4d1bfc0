"""The digit case: one side splits numbers digit by digit, the other by three; alignment and targets are right.

Both sides are the same random process over bytes, each in its own tokens, so that a right comparison is 0.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import kdtool
import pytest
import torch
from cut_texts import same_reading, values_of
from hypothesis import given
from hypothesis import strategies as st
from kdtool_loss_across_tokenizers import ProjectedKL, SpanLikelihood
from kdtool_torch import collate

LETTERS = b"ab .\n"
DIGITS = b"0123456789"
SINGLE_DIGITS = frozenset(bytes([digit]) for digit in DIGITS)
LEAST = 1e-300


class Cut(kdtool.Tokenizer):
    """Letters by the byte, and numbers from their left in pieces of at most `size` digits; the last token ends a text."""

    def __init__(self, size: int) -> None:
        numbers = [str(number).zfill(digits).encode() for digits in range(1, size + 1) for number in range(10**digits)]
        self.table = [*(bytes([letter]) for letter in LETTERS), *numbers, b""]
        self.size, self.ids = size, {piece: token for token, piece in enumerate(self.table)}

    @property
    def vocabulary(self) -> int:
        return len(self.table)

    @property
    def end_of_text(self) -> int:
        return len(self.table) - 1

    @property
    def fingerprint(self) -> str:
        return f"cut {self.size}"

    def encode(self, text: str) -> list[int]:
        found, content = list[int](), text.encode()
        while content:
            digits = len(content) - len(content.lstrip(DIGITS))
            size = min(max(1, digits), self.size)
            found.append(self.ids[content[:size]])
            content = content[size:]
        return found

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        return [self.table[token] for token in ids]


@cache
def cut(size: int) -> Cut:
    return Cut(size)


class Process:
    """A process over bytes; numbers have a multiple of three digits."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def step(self, before: bytes) -> dict[bytes, float]:
        """Return the distribution of the next byte, b"" for the end."""
        group = group_of(before)
        chance = random.Random(f"{self._seed} {group!r}")
        weights = {bytes([byte]): chance.random() ** 3 for byte in LETTERS + DIGITS} | {b"": 0.1}
        if group:
            weights = {byte: weight * (byte in SINGLE_DIGITS) for byte, weight in weights.items()}
        return {byte: weight / sum(weights.values()) for byte, weight in weights.items()}

    def token(self, before: bytes, piece: bytes, size: int) -> float:
        """Return the probability of a token after tokens with these bytes, if numbers are cut by `size` digits."""
        chance, read = 1.0, before
        for at in range(max(1, len(piece))):
            byte = piece[at : at + 1]
            chance *= self.step(read)[byte]
            read += byte
        if size > 1 and group_of(before):  # the token before says that the number ended there
            chance *= (piece[:1] not in SINGLE_DIGITS) / self.no_digit(before)
        if size > 1 and piece[:1] in SINGLE_DIGITS and len(piece) < size:
            chance *= self.no_digit(read)
        return chance

    def no_digit(self, before: bytes) -> float:
        return sum(p for byte, p in self.step(before).items() if byte not in SINGLE_DIGITS)


def group_of(before: bytes) -> bytes:
    """Return the digits at the end of some bytes that do not fill a group of three."""
    digits = before[len(before.rstrip(DIGITS)) :]
    return digits[len(digits) // 3 * 3 :]


def logits(process: Process, tokenizer: Cut, before: bytes) -> list[float]:
    """Return log-probabilities of the tokens after `before`, at which both ways of cutting end a token."""
    return [math.log(max(LEAST, process.token(before, piece, tokenizer.size))) for piece in tokenizer.table]


def read(process: Process, tokenizer: Cut, texts: Sequence[str]) -> tuple[kdtool.Batch, torch.Tensor]:
    """Return rows of one document each, ended, and the process's logits at all labelled positions."""
    rows, states = [], []
    encoded = [[*tokenizer.encode(text), tokenizer.end_of_text] for text in texts]
    length = max(map(len, encoded)) + 1
    for at, ids in enumerate(encoded):
        ends = [0]
        for piece in tokenizer.pieces(ids):
            ends.append(ends[-1] + len(piece))
        missing = length - len(ids)
        columns = {"byte_start": ends[:-1] + [0] * missing, "byte_end": ends[1:] + [0] * missing}
        document = [0] * len(ids) + [-1] * missing
        labelled = [True] * len(ids) + [False] * missing
        rows.append(kdtool.Row(str(at), ids + [0] * missing, labelled, document, columns))
        states += [logits(process, tokenizer, texts[at].encode()[:end]) for end in ends[1:-1]]
    return collate(rows), torch.tensor(states, dtype=torch.float64)


def view_of(process: Process, student: Cut, teacher: Cut, texts: Sequence[str]) -> kdtool.StepView:
    (batch, own), (other, theirs) = read(process, student, texts), read(process, teacher, texts)
    heads = [
        kdtool.Head(torch.eye(each.vocabulary, dtype=torch.float64), each.vocabulary) for each in (student, teacher)
    ]
    signal = kdtool.Signal("process", kdtool.LazyLogits(theirs, heads[1]))
    outputs = kdtool.ModelOutputs(own.requires_grad_())
    return kdtool.StepView(batch, outputs, signal, torch.tensor(0.0), torch.tensor(1), other, heads[0])


def ready(loss: Any, student: Cut, teacher: Cut) -> Any:
    loss.tokenizers = student, teacher
    return loss


parts = st.one_of(st.sampled_from("ab .\n"), st.integers(0, 999).map("{:03}".format))
texts = st.lists(st.lists(parts, min_size=1, max_size=8).map("".join), min_size=1, max_size=3)
sides = pytest.mark.parametrize("sizes", [(3, 1), (1, 3)], ids=["the teacher by digits", "the student by digits"])


@sides
@given(texts, st.integers(0, 20))
def test_projected_kl_is_zero_for_the_same_process_alone(sizes: tuple[int, int], text: list[str], seed: int) -> None:
    student, teacher = map(cut, sizes)
    loss = ready(ProjectedKL(ProjectedKL.Config()), student, teacher)
    view = view_of(Process(seed), student, teacher, text)
    values = values_of(loss, view)
    assert values.abs().max() < 1e-9
    assert torch.autograd.grad(values.sum(), view.student.last)[0].abs().max() < 1e-9
    other = view_of(Process(seed + 1), student, teacher, text)
    apart = values_of(loss, replace(view, teacher=other.teacher))
    met = sorted({at for at, _ in same_reading(view)})
    assert len(met) == min(len(view.student.last), len(other.teacher.lazy.hidden))  # type: ignore[union-attr]
    assert (apart[met] > 1e-6).all(), "wherever both have read the same, numbers included"


@sides
@given(texts, st.integers(0, 20), st.sampled_from([None, 0.05]))
def test_likelihoods_of_spans_agree(sizes: tuple[int, int], text: list[str], seed: int, debias: float | None) -> None:
    student, teacher = map(cut, sizes)
    loss = ready(SpanLikelihood(SpanLikelihood.Config(temperature=1.0, debias=debias)), student, teacher)
    assert values_of(loss, view_of(Process(seed), student, teacher, text)).abs().max() < 1e-9


def test_without_tokenizers_a_loss_says_how_to_get_them() -> None:
    view = view_of(Process(0), cut(3), cut(1), ["a123"])
    with pytest.raises(kdtool.PluginError, match=r"^projected-kl does not know the tokenizers.*`loss.tokenizers = "):
        values_of(ProjectedKL(ProjectedKL.Config()), view)
