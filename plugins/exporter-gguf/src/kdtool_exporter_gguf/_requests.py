"""Requests and answers as llama.cpp's server has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import kdtool
from kdtool_transformers import held_back, trim_suffix

__all__ = ["completion", "text_answer", "text_pieces"]

_FINAL = ["stop", "stop_type", "content", "tokens_evaluated", "tokens_predicted"]
"""Fields of the last response. The others repeat the prompt."""


def completion(request: kdtool.Request, prompt: Sequence[int], marks: Sequence[str]) -> dict[str, Any]:
    """Return the body of a request to `/completion`: no samplers but those asked for, special tokens as text if `marks`."""
    samplers = ["temperature"]
    if request.top_k > 0:
        samplers.append("top_k")
    if request.top_p < 1:
        samplers.append("top_p")
    body = {
        "prompt": [*prompt],
        "n_predict": request.max_tokens,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "samplers": samplers,
        "seed": request.seed % 2**32,
        "preserved_tokens": [*marks],
        "response_fields": _FINAL,
    }
    if request.logprobs is not None:
        body["n_probs"] = max(1, request.logprobs)
    return body


def text_answer(request: kdtool.Request, response: Mapping[str, Any]) -> kdtool.TextAnswer:
    """Return the answer in a response."""
    finish = _finish(response)
    return kdtool.TextAnswer(
        id=request.id,
        text=trim_suffix(response["content"], request.suffix or "", cut=finish == "length"),
        finish=finish,
        tokens_in=response["tokens_evaluated"],
        tokens_out=response["tokens_predicted"],
    )


def text_pieces(
    request: kdtool.Request, stops: Sequence[str], events: Iterable[Mapping[str, Any]]
) -> Iterator[kdtool.TextPiece]:
    """Yield the piece of an answer in each event, and without text while the prompt is read; the answer ends before `stops`.

    Text that may begin a stop string, or repeat the beginning of the suffix, is held back. Stop strings are not sent with
    the request: llama.cpp would not return such text if the answer then ends otherwise.
    """
    text, shown, suffix = "", 0, request.suffix or ""
    for event in events:
        text += event["content"]
        ends = [position for position in (text.find(stop, shown) for stop in stops) if position >= 0]
        finish: Literal["stop", "length"] | None = "stop" if ends else _finish(event) if event["stop"] else None
        if finish:
            text = trim_suffix(text[: min(ends, default=len(text))], suffix, cut=finish == "length")
            ready = len(text)
        else:
            ready = len(text) - held_back(text[shown:], stops, suffix)
        yield kdtool.TextPiece(
            text=text[shown:ready],
            tokens_in=event["tokens_evaluated"],
            tokens_out=event["tokens_predicted"],
            finish=finish,
            logprobs=tuple(_logprobs(event, request.logprobs)),
        )
        if finish:
            return
        shown = ready


def _finish(response: Mapping[str, Any]) -> Literal["stop", "length"]:
    return "length" if response["stop_type"] == "limit" else "stop"


def _logprobs(event: Mapping[str, Any], count: int | None) -> Iterator[kdtool.TokenLogprob]:
    for generated in event.get("completion_probabilities", ()):
        top = tuple((other["token"], other["logprob"]) for other in generated["top_logprobs"][:count])
        yield kdtool.TokenLogprob(generated["token"], generated["logprob"], top)
