"""Compare what a server returns with the model, before its first row: facts, tokenizer, and the distribution itself.

Nothing complains if states are projected wrongly: the student would learn from another distribution. So eight pieces of
Python's source go through the server, and the result is compared with the model's (`_reference`), with the server's
own log-probabilities, or with both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import sqrt
from typing import Any

import kdtool
import torch
from kdtool_torch import exact_head, exact_logits
from torch import Tensor

from kdtool_teacher_vllm._config import VLLMConfig
from kdtool_teacher_vllm._served import Readout
from kdtool_teacher_vllm._station import Question, Source, Station

BOUNDS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 2e-2}
_MODULES = ("bisect", "calendar", "csv", "fnmatch", "heapq", "shlex", "string", "textwrap")
_TOKENS = 128


@dataclass(frozen=True)
class Reference:
    """The model's own states of the rows: after the final norm, and the output of each layer that was asked for."""

    final: Sequence[Tensor]
    outputs: Mapping[int, Sequence[Tensor]]


def gate_rows(tokenizer: kdtool.Tokenizer, longest: int) -> list[list[int]]:
    """Return eight rows of token ids, of at most 128 tokens and `longest`; the same each time on one Python."""
    length = min(_TOKENS, longest)
    return [tokenizer.encode(inspect.getsource(import_module(name)))[:length] for name in _MODULES]


class Gate:
    """Checks servers of one model.

    Args:
        config: the teacher's settings.
        readout: its final norm and head.
        layers: the number of its decoder layers.
        rows: from `gate_rows`.
        reference: the model's own states; None compares with the server's log-probabilities.
        say: shows a line to the user.
    """

    def __init__(
        self,
        config: VLLMConfig,
        readout: Readout,
        layers: int,
        rows: Sequence[Sequence[int]],
        reference: Reference | None,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._readout = readout
        self._layers = layers
        self._rows = rows
        self._reference = reference
        self._say = say
        self.bound = config.bound or BOUNDS[config.dtype]

    def require_model(self, station: Station) -> None:
        """Compare a server's facts with the settings, and its distribution on the rows with the model's.

        Raises:
            UsageError: they differ.
            LostError, ServiceError: the server does not answer now.
        """
        if station.source is not None:
            self._require_facts(station, station.source)
        self._require_distribution(station)

    def _require_facts(self, station: Station, source: Source) -> None:
        facts, config = source.describe(), self._config
        expected: dict[str, Any] = {
            "layer_ids": config.layer_ids(self._layers),
            "dtype": config.dtype,
            "quantization": config.quantisation,
        }
        if config.revision is not None:
            expected["revision"] = config.revision
        for key, value in expected.items():
            if facts.get(key) != value:
                off_by_one = f" (the last must be {self._layers}: a layer off by one is another distribution)"
                hint = off_by_one if key == "layer_ids" else ""
                raise kdtool.UsageError(
                    f"the server at {station.url} has {key} {facts.get(key)!r}, but the recipe needs {value!r}{hint}; start "
                    "it with the command that `kdtool teacher serve RECIPE` prints"
                )

    def _require_distribution(self, station: Station) -> None:
        states = [station.ask(row) for row in self._rows]
        last = [each[:, -1] for each in states]
        shown = []
        if self._reference is not None:
            divergence = self._divergence(self._reference, last)
            shown.append(f"mean KL {divergence:.1e} nats per token from transformers")
            self._require(station, divergence, self.bound)
            self._require_layers(station, states, self._reference)
        if self._reference is None or self._config.reference == "auto":
            served = [station.log_probabilities(row) for row in self._rows]
            ours = log_probabilities(self._readout, [self._readout(each) for each in last], self._rows)
            difference = float((torch.cat(ours) - torch.cat(served)).abs().mean())
            shown.append(f"log-probabilities {difference:.1e} from the server's own")
            self._require(station, difference, sqrt(2 * self.bound))
        self._say(f"teacher: {station.url}: {', '.join(shown)} ({len(self._rows)} rows, bound {self.bound:g})")

    def _require(self, station: Station, value: float, bound: float) -> None:
        if not value <= bound:  # also if it is not a number
            raise kdtool.UsageError(
                f"the states of the server at {station.url} give another distribution than its model: {value:.2g} nats per "
                f"token, above the bound of {bound:.2g}; serve {self._config.model} with the same weights, by the command "
                "that `kdtool teacher serve RECIPE` prints"
            )

    def _divergence(self, reference: Reference, states: Sequence[Tensor]) -> float:
        """Return the mean KL of the model's distribution from that of the states, in nats per token."""
        head = exact_head(self._readout.head)
        total, count = 0.0, 0
        for own, served in zip(reference.final, states, strict=True):
            p, q = (exact_logits(head, each).double().log_softmax(-1) for each in (own, self._readout(served)))
            total += float((p.exp() * (p - q)).sum())
            count += len(own)
        return total / count

    def _require_layers(self, station: Station, states: Sequence[Tensor], reference: Reference) -> None:
        """Compare the outputs of layers that losses on hidden states will see."""
        ids = self._config.layer_ids(self._layers)
        for layer in self._config.layers:
            served = torch.cat([each[:, ids.index(layer + 1)] for each in states]).double()
            outputs = torch.cat([*reference.outputs[layer]]).double()
            distance = float((served - outputs).norm() / outputs.norm().clamp(min=1e-30))
            if distance > sqrt(self.bound):
                raise kdtool.UsageError(
                    f"layers: the server at {station.url} returns other states for layer {layer} than the model's "
                    f"(they differ by {distance:.0%}); start it with the command that `kdtool teacher serve RECIPE` prints"
                )


def require_scores(
    config: VLLMConfig,
    rows: Sequence[Sequence[int]],
    expected: Sequence[Tensor] | None,
    say: Callable[[str], None],
    station: Station,
) -> None:
    """Compare a server's scores of the rows' own tokens (`chosen: server`).

    Args:
        config: the teacher's settings.
        rows: from `gate_rows`.
        expected: the model's own log-probabilities of each row's tokens but the first; None compares only with those that
            the server returns as `prompt_logprobs`.
        say: shows a line to the user.
        station: the server.

    Raises:
        UsageError: they differ by more than the bound.
        ServiceError: the server does not answer now.
    """
    bound = sqrt(2 * (config.bound or BOUNDS[config.dtype]))
    scores = [station.score(Question(row, 0, [[token] for token in row[1:]]))[:, 0] for row in rows]
    compared = {"the server's own": [station.log_probabilities(row) for row in rows]}
    if expected is not None:
        compared["those of transformers"] = [*expected]
    shown = []
    for whose, known in compared.items():
        difference = float((torch.cat(scores).double() - torch.cat(known).double()).abs().mean())
        if not difference <= bound:  # also if it is not a number
            raise kdtool.UsageError(
                f"the server at {station.url} scores chosen tokens otherwise than {whose}: by {difference:.2g} nats per "
                f"token, above {bound:.2g}; serve {config.model} with the same weights, or set `chosen: states`"
            )
        shown.append(f"{difference:.1e} from {whose}")
    say(f"teacher: {station.url}: log-probabilities {' and '.join(shown)} ({len(rows)} rows, {bound:.1g} allowed)")


def log_probabilities(readout: Readout, final: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the log-probability of each row's tokens but the first, by the states after the final norm."""
    head, found = exact_head(readout.head), []
    for row, states in zip(rows, final, strict=True):
        logs = exact_logits(head, states[:-1]).double().log_softmax(-1)
        found.append(logs.gather(-1, torch.tensor(row[1:])[:, None])[:, 0])
    return found
