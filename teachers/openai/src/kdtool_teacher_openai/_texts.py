"""Prompts to answers, by the protocol's chat or its completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import kdtool

from kdtool_teacher_openai._server import RefusedError, Server, readable

if TYPE_CHECKING:
    from kdtool_teacher_openai._arrived import Arrived
    from kdtool_teacher_openai._config import OpenAIConfig

__all__ = ["answers", "choice_of", "listed_model", "require_model"]

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_ENDED = {"stop", "eos", "eos_token", "stop_sequence", "end_turn"}
"""Servers' names for an end that the model chose, or for a stop string."""
_STOPS = 4
"""OpenAI's own API refuses a request with more stop strings; all of them are looked for in the answer."""
_CUT_OFF = {"length", "max_tokens", "model_length"}
_FILTERED = {"content_filter", "refusal"}
"""The model, or what watches over it, declines: no fault of the request's form."""


def answers(
    server: Server, config: OpenAIConfig, requests: Iterable[kdtool.Request], arrived: Arrived
) -> Iterator[kdtool.TextAnswer]:
    """Yield an answer to each request, as they come; each is in `arrived` before.

    A request that the server refuses, and a malformed answer, count as "refused", with the reason; the others continue.
    """
    path = _PATHS[config.api]

    async def ask(request: kdtool.Request) -> kdtool.TextAnswer:
        try:
            answer = _answer(request, await server.sent(path, _body(config, request)), chat=config.api == "chat")
        except RefusedError as error:
            return kdtool.TextAnswer(request.id, "", "refused", 0, 0, reason=str(error))
        arrived.keep(request, answer)
        return answer

    for _, answer in server.at_once(requests, ask, config.concurrency):
        yield answer


def listed_model(server: Server, model: str) -> Mapping[str, Any] | None:
    """Return what the server lists about the model; None if it lists nothing. Raises as `require_model`."""
    try:
        listed = server.get("/models")
    except RefusedError as error:
        raise kdtool.UsageError(
            f"url: not a server with the OpenAI protocol ({error}); give one such as http://127.0.0.1:8000/v1"
        ) from None
    entries = listed.get("data") if isinstance(listed, Mapping) else None
    if not isinstance(entries, list) or not entries:
        return None
    known = [entry for entry in entries if isinstance(entry, Mapping)]
    for entry in known:
        if model in [entry.get("id"), *(entry.get("aliases") or [])]:
            return entry
    names = ", ".join(sorted(str(entry.get("id")) for entry in known)[:10])
    raise kdtool.UsageError(f"the server does not serve the model {model!r}, but {names}; name one of these by `model`")


def require_model(server: Server, config: OpenAIConfig) -> None:
    """Ask for what is served, which costs nothing.

    Raises:
        UsageError: it is another kind of server, or it serves other models.
        AuthenticationError: the key is missing or refused.
        ServiceError: it does not answer.
    """
    listed_model(server, config.model)


def choice_of(answer: Any) -> Mapping[str, Any]:
    """Return the one choice of an answer.

    Raises:
        RefusedError: there is none.
    """
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise RefusedError("the answer contains no choices")
    return choices[0]


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
    stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    usage = answer.get("usage")
    tokens_out = _count(usage, "completion_tokens")
    finish = choice.get("finish_reason")
    if finish is None:  # some servers leave it out
        finish = "length" if tokens_out >= request.max_tokens else "stop"
    ended = "stop" if stops else _finish(finish)
    if ended == "stop" and not isinstance(said, str):  # a server that keeps it elsewhere, or in parts, can be mended
        raise RefusedError("the answer contains no text")
    return kdtool.TextAnswer(
        id=request.id,
        text=text[: min(stops)] if stops else text,
        finish=ended,
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=tokens_out,
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


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and value >= 0 else 0  # true is an int, too
