"""The best of several answers: one greedy, the others sampled; the likeliest of them is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

import kdtool

__all__ = ["candidates", "choose", "likelihood"]

_TEMPERATURE = 0.6
_SEEDS = 7919
"""Distance between the seeds of candidates, so that those of a request with the next seed are others."""


def candidates(request: kdtool.Request, count: int) -> list[kdtool.Request]:
    """Return the request and `count` - 1 sampled ones; the log-probabilities of their tokens are asked for, too."""
    first = replace(request, logprobs=request.logprobs or 0)
    temperature = request.temperature or _TEMPERATURE
    seeds = ((request.seed + number * _SEEDS) % 2**63 for number in range(1, count))
    return [first, *(replace(first, temperature=temperature, seed=seed) for seed in seeds)]


def choose(streams: Sequence[Iterator[kdtool.TextPiece]], request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
    """Read streams in turns, so that they share passes, and yield the likeliest answer as the last piece.

    Earlier pieces have no text; counts of tokens are of all answers together.
    """
    answers: list[list[kdtool.TextPiece]] = [[] for _ in streams]
    open_streams = {*range(len(streams))}
    try:
        while open_streams:
            for number in sorted(open_streams):
                piece = next(streams[number], None)
                if piece is None:
                    open_streams.discard(number)
                    continue
                answers[number].append(piece)
                if piece.finish == "refused":
                    yield piece
                    return
            yield kdtool.TextPiece("", answers[0][-1].tokens_in, _count(answers))
        best = max(
            (_join(pieces) for pieces in answers), key=lambda piece: (bool(piece.text), likelihood(piece.logprobs))
        )
        shown = best.logprobs if request.logprobs is not None else ()
        yield replace(best, tokens_out=_count(answers), logprobs=shown)
    finally:
        for stream in streams:
            if (close := getattr(stream, "close", None)) is not None:
                close()


def likelihood(logprobs: Sequence[kdtool.TokenLogprob]) -> float:
    """Return the mean log-probability per token; that of an empty answer is −∞."""
    return fmean(token.logprob for token in logprobs) if logprobs else float("-inf")


def _count(found: Sequence[Sequence[kdtool.TextPiece]]) -> int:
    return sum(pieces[-1].tokens_out for pieces in found if pieces)


def _join(pieces: Sequence[kdtool.TextPiece]) -> kdtool.TextPiece:
    """Return a whole answer as one piece."""
    logprobs = tuple(token for piece in pieces for token in piece.logprobs)
    return replace(pieces[-1], text="".join(piece.text for piece in pieces), logprobs=logprobs)
