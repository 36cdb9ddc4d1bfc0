"""Teachers whose answers cost money."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import kdtool

__all__ = ["Priced", "priced_teacher"]


class Priced:
    """Base class, besides `kdtool.Teacher`, of teachers whose answers cost money.

    Corpora and filters that ask such a teacher show the price in `kdtool check`, and `kdtool serve` offers it only on
    request.
    """

    def estimate_answers(
        self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], times: float = 1, most: float = 1
    ) -> Iterator[kdtool.Estimate]:
        """Yield the money and time that answers will cost. Nothing is asked, and stored answers cost nothing.

        Args:
            run: of the component that will ask.
            requests: all requests, or a sample of them.
            times: the number of requests that each one stands for.
            most: the same, if as many answers as possible are rejected and requested again. The price is that without
                rejections.
        """
        raise NotImplementedError


def priced_teacher(run: kdtool.RunInfo, name: str) -> Priced | None:
    """Return a component of the run if its answers cost money, else None."""
    with suppress(kdtool.UsageError):
        return run.component(name, Priced)
    return None
