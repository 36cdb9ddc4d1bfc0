"""Completions at a cursor: how a model is asked, and how its answer is shaped until it fits into the gap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import kdtool
from kdtool_streaming import end_naturally

from kdtool_command_serve.choosing import candidates, choose
from kdtool_command_serve.continuing import as_gap, end_at_suffix
from kdtool_command_serve.devices import Devices
from kdtool_command_serve.syntax import cut_to_fit
from kdtool_command_serve.units import end_at_unit

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """A request as a model is asked it, and the text after the gap that its answer fills: None if there is no gap.

    The answer to a gap ends where `suffix` begins if it is `continued`, because the model does not read the suffix.
    """

    request: kdtool.Request
    suffix: str | None = None
    continued: bool = False
    natural_end: bool = False
    devices: Devices = field(default_factory=Devices)

    @classmethod
    def of(cls, request: kdtool.Request, runtime: kdtool.Runtime, devices: Devices, *, natural_end: bool) -> Task:
        """Return the task for a request to an opened model."""
        gap = as_gap(request, runtime)
        is_gap = gap.suffix is not None
        continued = is_gap and "infill" not in runtime.abilities and "continue" in runtime.abilities
        asked = replace(gap, heal=devices.healing and is_gap, suffix=None if continued else gap.suffix)
        return cls(asked, gap.suffix, continued, natural_end, devices)

    def stream(self, runtime: kdtool.Runtime) -> Iterator[kdtool.TextPiece]:
        """Yield the answer while it is generated."""
        if self.suffix is None or self.devices.best_of == 1:
            return self._shape(runtime.stream(self.request), self.request)
        asked = candidates(self.request, min(self.devices.best_of, runtime.streams))
        return choose([self._shape(runtime.stream(each), each) for each in asked], self.request)

    def _shape(self, pieces: Iterator[kdtool.TextPiece], request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield an answer's pieces up to where it ends in the gap."""
        if self.natural_end or self.continued:
            pieces = end_naturally(pieces, request)
        if self.suffix is None:
            return pieces
        if self.continued:
            pieces = end_at_suffix(pieces, self.suffix)
        if self.devices.units:
            pieces = end_at_unit(pieces, request.prompt, self.suffix)
        return cut_to_fit(pieces, request.prompt, self.suffix) if self.devices.syntax else pieces
