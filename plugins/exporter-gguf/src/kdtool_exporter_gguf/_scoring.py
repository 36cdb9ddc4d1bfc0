"""Log-likelihoods of given text, from a server that returns probabilities only of generated tokens.

llama.cpp's server does not score prompts (https://github.com/ggml-org/llama.cpp/issues/27174). So a grammar forces it to
generate the text token by token, and it returns the probabilities from before sampling. This fails for tokens that are
parts of a character, and for tokens that end an answer; these are looked up in the full distribution after their context.
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
"""Logarithm of the smallest positive float32, in which llama.cpp computes probabilities; it returns log 0 as some -3e38."""


class Piece(NamedTuple):
    """A token; `whole` if it stands for whole characters, which a grammar can force."""

    id: int
    whole: bool

    @classmethod
    def parse(cls, token: Mapping[str, Any]) -> Piece:
        """Parse a token of the response of `/tokenize`: its text, or its bytes if they are not text."""
        text = token["piece"]
        return cls(int(token["id"]), isinstance(text, str) and text != "" and "\0" not in text)


def pieces(server: LlamaCpp, text: str, *, begun: bool = False) -> list[Piece]:
    """Return llama.cpp's tokens of a text, including special tokens written in it.

    With `begun`, they include the start token that llama.cpp prepends, if any.
    """
    body = {"content": text, "add_special": begun, "parse_special": True, "with_pieces": True}
    return [Piece.parse(token) for token in server.post("/tokenize", body)["tokens"]]


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
            # Reuse the cache within a text only: reusing another text's might round differently.
            ask = _force if whole else _look_up
            yield from (max(_LEAST, value) for value in ask(server, {"prompt": prompt, "cache_prompt": known}, part))
            prompt, known = [*prompt, *part], True


def _force(server: LlamaCpp, body: Mapping[str, Any], targets: Sequence[int]) -> list[float]:
    """Return the log-probabilities of tokens that a grammar forces the server to generate."""
    grammar = "root ::= " + " ".join(f"<[{target}]>" for target in targets)
    try:
        generated = _generate(server, {**body, "n_predict": len(targets), "n_probs": 1, "grammar": grammar})
    except RefusedError:  # one of them ends an answer, which a grammar cannot force: find it by bisection
        if len(targets) == 1:
            return _look_up(server, body, targets)
        first, second = targets[: len(targets) // 2], targets[len(targets) // 2 :]
        behind = {"prompt": [*body["prompt"], *first], "cache_prompt": True}
        return [*_force(server, body, first), *_force(server, behind, second)]
    if [one["id"] for one in generated] != list(targets):
        raise kdtool.PluginError(
            "llama.cpp did not generate the text that a grammar requires; measure with another version of xllamacpp"
        )
    return [one["logprob"] for one in generated]


def _look_up(server: LlamaCpp, body: Mapping[str, Any], targets: Sequence[int]) -> list[float]:
    """Return the log-probability of one token, from the full distribution."""
    # Bias the server towards a letter: it returns nothing for a partial character. Probabilities are from before the bias.
    letter, vocabulary = _letter_and_vocabulary(server)
    generated = _generate(server, {**body, "n_predict": 1, "n_probs": vocabulary, "logit_bias": [[letter, 1000]]})
    (target,) = targets
    return [next(one["logprob"] for one in generated[0]["top_logprobs"] if one["id"] == target)]


def _generate(server: LlamaCpp, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    answer = server.post("/completion", {**body, "temperature": 0, "samplers": ["temperature"]})
    found: list[dict[str, Any]] = answer.get("completion_probabilities", [])
    return found


def _letter_and_vocabulary(server: LlamaCpp) -> tuple[int, int]:
    """Return the id of a letter, and the size of the vocabulary."""
    return pieces(server, "a")[-1].id, server.get("/v1/models")["data"][0]["meta"]["n_vocab"]
