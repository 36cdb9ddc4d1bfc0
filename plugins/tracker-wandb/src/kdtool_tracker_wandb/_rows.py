"""Training steps as points of curves, each step once, even if a killed and resumed run repeats it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kdtool
from kdtool_curves import figures
from pydantic import TypeAdapter

__all__ = ["Rows"]

_REPORT: TypeAdapter[kdtool.StepReport] = TypeAdapter(kdtool.StepReport)


class Rows:
    """Makes the points of one phase. If a resumed run repeats a step, the first point counts."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._last = -1
        self._tokens, self._seconds = 0, 0.0

    @property
    def axis(self) -> str:
        """The step axis of all curves of the phase."""
        return f"{self._phase}/step"

    def row(self, event: Mapping[str, Any]) -> dict[str, float] | None:
        """Return the point of a logged step, by curve; None if the step was logged before.

        `tokens_per_second` is measured since the previously logged step.
        """
        report = _REPORT.validate_python(event)
        gained, spent = report.tokens - self._tokens, report.seconds - self._seconds
        self._tokens, self._seconds = report.tokens, report.seconds
        if report.step <= self._last:
            return None
        self._last = report.step
        numbers = {"step": report.step, **figures(report)}
        if spent > 0 and gained >= 0:
            numbers["tokens_per_second"] = gained / spent
        return {f"{self._phase}/{name}": value for name, value in numbers.items()}
