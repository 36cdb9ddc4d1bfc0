"""Answers of a server: text for prompts, and the likeliest tokens at each position of documents.

Prompts are sent by the protocol's chat or its completions.

Two protocols for likeliest tokens with their ids are known. vLLM gives them for a whole prompt at once
(`prompt_logprobs`). llama.cpp gives them only for the next token, so each position is requested in turn, with the text
before it cached: as slow as generating the text. `TopTokens` finds out which of them a server supports.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import kdtool
from kdtool_measuring import cut_at_stops, readable

from kdtool_teacher_openai.client import (
    SAMPLES,
    Piece,
    RefusedError,
    Server,
    choice_of,
    compare_tokenizers,
    documents_of,
)

if TYPE_CHECKING:
    from kdtool_teacher_openai._config import OpenAIConfig

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_ENDED = {"stop", "eos", "eos_token", "stop_sequence", "end_turn"}
"""Servers' names for an end that the model chose, or for a stop string."""
_STOPS = 4
"""OpenAI's own API refuses a request with more stop strings; all of them are looked for in the answer."""
_CUT_OFF = {"length", "max_tokens", "model_length"}
_FILTERED = {"content_filter", "refusal"}
"""The model, or what watches over it, declines: no fault of the request's form."""


def answers(server: Server, config: OpenAIConfig, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
    """Yield an answer to each request, as they come.

    A request that the server refuses, and a malformed answer, count as "refused", with the reason; the others continue.
    """
    path = _PATHS[config.api]

    async def ask(request: kdtool.Request) -> kdtool.TextAnswer:
        try:
            return _answer(request, await server.sent(path, _body(config, request)), chat=config.api == "chat")
        except RefusedError as error:
            return kdtool.TextAnswer(request.id, "", "refused", 0, 0, reason=str(error))

    for _, answer in server.at_once(requests, ask, config.concurrency):
        yield answer


def require_model(server: Server, model: str) -> None:
    """Ask whether the model is served, which costs nothing. A server that lists nothing may serve it.

    Raises:
        UsageError: it is another kind of server, or it serves other models.
        AuthenticationError: the key is missing or refused.
        ServiceError: it does not answer.
    """
    try:
        listed = server.get("/models")
    except RefusedError as error:
        raise kdtool.UsageError(
            f"url: not a server with the OpenAI protocol ({error}); give one such as http://127.0.0.1:8000/v1"
        ) from None
    entries = listed.get("data") if isinstance(listed, Mapping) else None
    if not isinstance(entries, list) or not entries:
        return
    known = [entry for entry in entries if isinstance(entry, Mapping)]
    served = [name for entry in known for name in (entry.get("id"), *(entry.get("aliases") or []))]
    if model not in served and f"{model}:latest" not in served:  # Ollama takes the name without the tag
        names = ", ".join(sorted(str(entry.get("id")) for entry in known)[:10])
        raise kdtool.UsageError(
            f"the server does not serve the model {model!r}, but {names}; name one of these by `model`"
        )


def _body(config: OpenAIConfig, request: kdtool.Request) -> dict[str, Any]:
    if request.turns and (config.api != "chat" or request.prompt):
        raise kdtool.UsageError(
            "a conversation needs `api: chat`, and only the server can choose how the answer begins"
        )
    if request.suffix is not None and config.api == "chat":
        raise kdtool.UsageError("infilling needs `api: completions`: set it")
    turns = request.turns or (("user", request.prompt),)
    messages = [{"role": role, "content": content} for role, content in turns]
    return {
        "model": config.model,
        **({"messages": messages} if config.api == "chat" else {"prompt": request.prompt}),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        **({"suffix": request.suffix} if request.suffix is not None else {}),
        **({"top_p": request.top_p} if request.top_p < 1 else {}),
        **({"top_k": request.top_k} if request.top_k else {}),
        **({"stop": list(request.stop[:_STOPS])} if request.stop else {}),
    }


def _answer(request: kdtool.Request, answer: Any, *, chat: bool) -> kdtool.TextAnswer:
    """Return the text of an answer.

    Raises:
        RefusedError: a choice or its text is missing, or the reason for its end is unknown.
    """
    choice = choice_of(answer)
    message = choice.get("message") if chat else choice
    said = message.get("content" if chat else "text") if isinstance(message, Mapping) else None
    text = readable(said) if isinstance(said, str) else ""
    cut = cut_at_stops(text, request)
    usage = answer.get("usage")
    tokens_out = _read_count(usage, "completion_tokens")
    finish = choice.get("finish_reason")
    if finish is None:  # some servers leave it out
        finish = "length" if tokens_out >= request.max_tokens else "stop"
    ended = "stop" if cut != text else _finish(finish)
    if ended == "stop" and not isinstance(said, str):  # a server that keeps it elsewhere, or in parts, can be mended
        raise RefusedError("the answer contains no text")
    return kdtool.TextAnswer(
        id=request.id, text=cut, finish=ended, tokens_in=_read_count(usage, "prompt_tokens"), tokens_out=tokens_out
    )


def _finish(reason: Any) -> Literal["stop", "length", "refused"]:
    word = str(reason)
    if word in _FILTERED:
        return "refused"
    if word in _CUT_OFF:
        return "length"
    if word in _ENDED:
        return "stop"
    raise RefusedError(f"the answer ended with finish_reason {word[:60]!r}")


def _read_count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and value >= 0 else 0  # true is an int, too


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
