"""Log-likelihoods of given text from a server that tells probabilities of what it generates alone.

llama.cpp's server does not tell how likely a prompt is (https://github.com/ggml-org/llama.cpp/issues/27174). So a grammar
forces it to generate the text, token by token, and its probabilities are those from before sampling. That tells nothing of
tokens that hold parts of a character, and a grammar forces none that ends an answer; these are looked up in the whole
distribution behind the text before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import kdtool
from kdtool_transformers import windows

from kdtool_exporter_gguf._server import LlamaCpp, RefusedError

__all__ = ["Piece", "log_likelihood", "pieces"]

_LEAST = -104.0
"""The logarithm of the least positive float32. llama.cpp computes probabilities in it, and tells log 0 as some -3e38."""


class Piece(NamedTuple):
    """A token; `whole` if it stands for whole characters, as a grammar can force them."""

    id: int
    whole: bool

    @classmethod
    def told(cls, token: Mapping[str, Any]) -> Piece:
        """Take a token as `/tokenize` tells it: its text, or its bytes where these are none."""
        text = token["piece"]
        return cls(int(token["id"]), isinstance(text, str) and text != "" and "\0" not in text)


def pieces(server: LlamaCpp, text: str, *, begun: bool = False) -> list[Piece]:
    """Return the tokens of a text as llama.cpp splits it; special ones written in it count.

    With `begun` they begin with those that llama.cpp puts before a text; else none are added.
    """
    body = {"content": text, "add_special": begun, "parse_special": True, "with_pieces": True}
    return [Piece.told(token) for token in server.post("/tokenize", body)["tokens"]]


def log_likelihood(server: LlamaCpp, tokens: Sequence[Piece], size: int) -> float:
    """Return the log-likelihood of all tokens but the first in nats, each given at most `size` tokens before it."""
    return sum(
        value
        for start, scored, stop in windows(len(tokens) - 1, size)
        for value in _values(server, tokens[start : scored + 1], tokens[scored + 1 : stop + 1])
    )


def _values(server: LlamaCpp, before: Sequence[Piece], targets: Sequence[Piece]) -> Iterator[float]:
    prompt, known = [token.id for token in before], False
    for whole, group in groupby(targets, key=lambda token: token.whole):
        ids = [token.id for token in group]
        for part in [ids] if whole else [[one] for one in ids]:
            # Within a text what was computed of it is used again; of other texts never, which might round otherwise.
            ask = _forced if whole else _looked_up
            yield from (max(_LEAST, value) for value in ask(server, {"prompt": prompt, "cache_prompt": known}, part))
            prompt, known = [*prompt, *part], True


def _forced(server: LlamaCpp, body: Mapping[str, Any], targets: Sequence[int]) -> list[float]:
    """Return how likely each of some tokens is when a grammar allows no other."""
    grammar = "root ::= " + " ".join(f"<[{target}]>" for target in targets)
    try:
        told = _told(server, {**body, "n_predict": len(targets), "n_probs": 1, "grammar": grammar})
    except RefusedError:  # one of them ends an answer, which a grammar does not force; it is looked for by halves
        if len(targets) == 1:
            return _looked_up(server, body, targets)
        first, second = targets[: len(targets) // 2], targets[len(targets) // 2 :]
        behind = {"prompt": [*body["prompt"], *first], "cache_prompt": True}
        return [*_forced(server, body, first), *_forced(server, behind, second)]
    if [one["id"] for one in told] != list(targets):
        raise kdtool.PluginError("llama.cpp did not generate the text that a grammar forced it to")
    return [one["logprob"] for one in told]


def _looked_up(server: LlamaCpp, body: Mapping[str, Any], targets: Sequence[int]) -> list[float]:
    """Return how likely one token is, from the probabilities of all."""
    # Led to draw a letter, since nothing is told of a draw that is no whole character; what it tells is from before that.
    letter, vocabulary = _surroundings(server)
    told = _told(server, {**body, "n_predict": 1, "n_probs": vocabulary, "logit_bias": [[letter, 1000]]})
    (target,) = targets
    return [next(one["logprob"] for one in told[0]["top_logprobs"] if one["id"] == target)]


def _told(server: LlamaCpp, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = server.post("/completion", {**body, "temperature": 0, "samplers": ["temperature"]})
    found: list[dict[str, Any]] = answer.get("completion_probabilities", [])
    return found


def _surroundings(server: LlamaCpp) -> tuple[int, int]:
    """Return the id of a letter, and the number of tokens."""
    return pieces(server, "a")[-1].id, server.get("/v1/models")["data"][0]["meta"]["n_vocab"]
