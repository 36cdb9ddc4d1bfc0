"""The likeliest tokens at each position, with their ids, from servers that give them.

Two protocols are known. vLLM gives them for a whole prompt at once (`prompt_logprobs`). llama.cpp gives them only for the
next token, so each position is requested in turn, with the text before it cached: as slow as generating the text.
`TopTokens` finds out which of them a server supports, and compares its tokenizer with the one that the recipe names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_teacher_openai._compare import SAMPLES, compare_tokenizers
from kdtool_teacher_openai._documents import Piece, documents_of
from kdtool_teacher_openai._server import RefusedError, Server
from kdtool_teacher_openai._texts import choice_of

if TYPE_CHECKING:
    from kdtool_teacher_openai._config import OpenAIConfig

__all__ = ["TopTokens"]

Top = list[tuple[int, float]]
"""Token ids with natural logarithms of their probabilities, the likeliest first."""


class TopTokens:
    """The likeliest tokens by one server, whose tokenizer was found to be `tokenizer`.

    Raises:
        UsageError: the server does not give log-probabilities with token ids, or its tokenizer is another one.
    """

    def __init__(self, server: Server, config: OpenAIConfig, tokenizer: kdtool.Tokenizer) -> None:
        self._server = server
        self._config = config
        self._tokenizer = tokenizer
        self._top_k = config.top_k or 1
        compare_tokenizers(
            server, config, tokenizer, config.tokenizer or "", "leave `top_k` out and learn from its text"
        )
        self._ask = self._find_protocol()
        # llama.cpp rounds otherwise when it serves several requests, and the same request would get other numbers.
        self._limit = 1 if self._ask == self._in_turn else config.concurrency

    def of(self, batch: kdtool.Batch, temperature: float) -> kdtool.SparseTokens:
        """Return the likeliest tokens at each labelled position of a batch, as probabilities.

        Raises:
            UsageError: the temperature is not 1, or a document is longer than the server's context.
        """
        import torch

        if temperature != 1.0:
            raise kdtool.UsageError(
                f"a server gives probabilities at temperature 1, and those at {temperature:g} cannot be computed from "
                "only the likeliest tokens: leave the loss's temperature at 1"
            )
        labelled = int((batch.labels != -100).sum())
        ids = torch.full((labelled, self._top_k), -1, dtype=torch.int32)
        weights = torch.zeros(labelled, self._top_k)
        try:
            for piece, answers in self._server.at_once(documents_of(batch), self._ask, self._limit):
                for target, top in zip(piece.targets, answers, strict=True):
                    ids[target, : len(top)] = torch.tensor([token for token, _ in top], dtype=torch.int32)
                    weights[target, : len(top)] = torch.tensor([value for _, value in top]).exp()
        except RefusedError as error:
            raise kdtool.UsageError(
                f"the server refuses a document: {error}; shorter rows may fit its context"
            ) from None
        weights /= weights.sum(-1, keepdim=True).clamp(min=1.0)  # rounding may add up to more than 1
        device = batch.labels.device
        return kdtool.SparseTokens(ids.to(device), weights.to(device), "top-k", 1.0)

    def _find_protocol(self) -> Callable[[Piece], Awaitable[list[Top]]]:
        """Return the way to ask that this server understands: a document at once, or position by position."""
        tokens = self._tokenizer.encode(SAMPLES[0])[:3]
        piece = Piece(tokens, [0, 1], [0, 1])
        for ask in (self._at_once, self._in_turn):
            try:
                list(self._server.at_once([piece], ask, 1))
            except RefusedError:
                continue
            return ask
        raise kdtool.UsageError(
            f"the server does not give the {self._top_k} likeliest tokens with their ids, neither as vLLM does (start it "
            f"with --max-logprobs {self._top_k}) nor as llama.cpp; leave `top_k` out and learn from its text"
        )

    async def _at_once(self, piece: Piece) -> list[Top]:
        """Ask vLLM about a whole document: entry i of its list is about token i, given those before it."""
        body = {"model": self._config.model, "prompt": piece.tokens, "max_tokens": 1, "temperature": 0}
        answer = await self._server.sent("/completions", {**body, "prompt_logprobs": self._top_k})
        listed = choice_of(answer).get("prompt_logprobs")
        if not isinstance(listed, list) or len(listed) != len(piece.tokens):
            raise RefusedError("no log-probabilities of the prompt")
        return [self._read(_vllm_pairs(listed[position + 1])) for position in piece.places]

    async def _in_turn(self, piece: Piece) -> list[Top]:
        """Ask llama.cpp about the token that follows each position.

        llama.cpp returns nothing if it samples a part of a character or the end of the text, so a bias
        makes it sample a letter; the probabilities that it returns are from before that bias.
        """
        letter = {str(self._tokenizer.encode("a")[-1]): 1000}
        body = {"model": self._config.model, "max_tokens": 1, "temperature": 0, "logit_bias": letter}
        answers = []
        for position in piece.places:
            asked = {**body, "prompt": piece.tokens[: position + 1], "logprobs": self._top_k}
            answer = await self._server.sent("/completions", asked)
            answers.append(self._read(_llama_cpp_pairs(choice_of(answer).get("logprobs"))))
        return answers

    def _read(self, pairs: Iterator[tuple[Any, Any]]) -> Top:
        try:
            top = sorted(((int(token), float(value)) for token, value in pairs), key=lambda pair: (-pair[1], pair[0]))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RefusedError(f"log-probabilities in an unknown form ({error!r})") from None
        known = [pair for pair in top if 0 <= pair[0] < self._tokenizer.vocabulary]  # others pad the model's vocabulary
        if not known:
            raise RefusedError("no token that the tokenizer knows")
        return known[: self._top_k]


def _vllm_pairs(entry: Any) -> Iterator[tuple[Any, Any]]:
    """Yield ids and values of {"17": {"logprob": -0.5, "rank": 1, …}, …}, in which the text's own token is added."""
    for token, about in entry.items():
        yield token, about["logprob"]


def _llama_cpp_pairs(logprobs: Any) -> Iterator[tuple[Any, Any]]:
    """Yield ids and values of {"content": [{"top_logprobs": [{"id": 17, "logprob": -0.5, …}, …]}]}."""
    for about in logprobs["content"][0]["top_logprobs"]:
        yield about["id"], about["logprob"]
