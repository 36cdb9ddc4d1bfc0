"""Prompts to answers, by the protocol's chat or its completions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_teacher_openai._server import RefusedError, Server

if TYPE_CHECKING:
    from kdtool_teacher_openai import OpenAI

__all__ = ["answers", "choice_of", "listed_model", "require_model"]

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}


def answers(server: Server, config: OpenAI.Config, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
    """Yield an answer to each request, as they come.

    A request that the server refuses, and an answer that is none, count as "refused": the others go on.
    """
    path = _PATHS[config.api]

    async def ask(request: kdtool.Request) -> kdtool.TextAnswer:
        try:
            return _answer(request, await server.sent(path, _body(config, request)), chat=config.api == "chat")
        except RefusedError:
            return kdtool.TextAnswer(request.id, "", "refused", 0, 0)

    for _, answer in server.at_once(requests, ask, config.concurrency):
        yield answer


def listed_model(server: Server, model: str) -> Mapping[str, Any] | None:
    """Return what the server lists about the model; None where it lists nothing. Raises as `require_model`."""
    try:
        listed = server.get("/models")
    except RefusedError as error:
        raise kdtool.UsageError(f"`url` leads to no server with the OpenAI protocol: {error}") from None
    entries = listed.get("data") if isinstance(listed, Mapping) else None
    if not isinstance(entries, list) or not entries:
        return None
    known = [entry for entry in entries if isinstance(entry, Mapping)]
    for entry in known:
        if model in [entry.get("id"), *(entry.get("aliases") or [])]:
            return entry
    names = ", ".join(sorted(str(entry.get("id")) for entry in known)[:10])
    raise kdtool.UsageError(f"the server does not serve the model {model!r}, but {names}; write `model:` accordingly")


def require_model(server: Server, config: OpenAI.Config) -> None:
    """Ask for what is served, which costs nothing.

    Raises:
        UsageError: it is no such server, or it serves other models.
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
        raise RefusedError("the answer holds no choice")
    return choices[0]


def _body(config: OpenAI.Config, request: kdtool.Request) -> dict[str, Any]:
    if request.turns and (config.api != "chat" or request.prompt):
        raise kdtool.UsageError(
            "a conversation can be answered through `api: chat` alone, and how the answer begins is the server's to choose"
        )
    turns = request.turns or (("user", request.prompt),)
    messages = [{"role": role, "content": content} for role, content in turns]
    return {
        "model": config.model,
        **({"messages": messages} if config.api == "chat" else {"prompt": request.prompt}),
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        **({"stop": list(request.stop)} if request.stop else {}),
    }


def _answer(request: kdtool.Request, answer: Any, *, chat: bool) -> kdtool.TextAnswer:
    choice = choice_of(answer)
    message = choice.get("message") if chat else choice
    text = message.get("content" if chat else "text") if isinstance(message, Mapping) else None
    text = text if isinstance(text, str) else ""
    stops = [at for stop in request.stop if (at := text.find(stop)) >= 0]
    usage = answer.get("usage")
    finish = choice.get("finish_reason")
    return kdtool.TextAnswer(
        id=request.id,
        text=text[: min(stops)] if stops else text,
        finish="stop" if stops or finish == "stop" else "length" if finish == "length" else "refused",
        tokens_in=_count(usage, "prompt_tokens"),
        tokens_out=_count(usage, "completion_tokens"),
    )


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and value >= 0 else 0
