"""Training steps as points of curves, each step once, whatever a killed and resumed run repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Rows"]


class Rows:
    """Makes the points of one phase. Of a step that a resumed run repeats, the first one counts."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._last = -1
        self._tokens, self._seconds = 0.0, 0.0

    @property
    def axis(self) -> str:
        """The step axis of all curves of the phase."""
        return f"{self._phase}/step"

    def row(self, report: Mapping[str, Any], memory: Mapping[str, float]) -> dict[str, float] | None:
        """Return the point of a logged step, by curve; None if the step was there before."""
        tokens, seconds = float(report["tokens"]), float(report["seconds"])
        gained, spent = tokens - self._tokens, seconds - self._seconds
        self._tokens, self._seconds = tokens, seconds
        if report["step"] <= self._last:
            return None
        self._last = report["step"]
        found = {
            "step": report["step"],
            **{name: float(report[name]) for name in ("loss", "learning_rate", "gradient_norm")},
            "tokens": tokens,
            "seconds": seconds,
            **dict(_terms(report["terms"])),
            **{f"validation/{name}": float(value) for name, value in report["metrics"].items()},
            **{f"memory-gib/{name}": value for name, value in memory.items()},
        }
        if spent > 0 and gained >= 0:
            found["tokens_per_second"] = gained / spent
        return {f"{self._phase}/{name}": value for name, value in found.items()}


def _terms(terms: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    norms = {name: float(term["gradient_norm"]) for name, term in terms.items() if term["gradient_norm"] is not None}
    total = sum(norms.values())
    for name, term in terms.items():
        yield f"terms/{name}", float(term["value"])
        yield f"weights/{name}", float(term["weight"])
        if name in norms:
            yield f"gradient_norms/{name}", norms[name]
            if total > 0:
                yield f"gradient_shares/{name}", norms[name] / total
