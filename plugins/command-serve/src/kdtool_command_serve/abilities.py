"""Requests that a model is able to answer: it may continue text, converse, continue a begun answer, or fill gaps."""

from __future__ import annotations

import kdtool

from kdtool_command_serve.errors import RequestError

__all__ = ["require_abilities"]


def require_abilities(name: str, runtime: kdtool.Runtime, request: kdtool.Request) -> None:
    """Refuse a request that the model `name` is not able to answer.

    Raises:
        RequestError: the message names the parameter that asks for it, and a remedy.
    """
    needed: dict[kdtool.Ability, bool] = {
        "converse": bool(request.turns),
        "prefill": bool(request.turns and request.prompt),
        "infill": request.suffix is not None,
        "continue": not request.turns and request.suffix is None,
    }
    for ability, is_needed in needed.items():
        if is_needed and ability not in runtime.abilities:
            param, why = _CANNOT[ability]
            raise RequestError(f"{param}: {name} {why}", code="unsupported", param=param)


_CANNOT = {
    "continue": ("prompt", "does not continue text; use /v1/chat/completions"),
    "converse": ("messages", "does not converse, because its tokenizer has no chat template; use /v1/completions"),
    "prefill": ("messages", "cannot continue an answer that is begun; let the last message be the user's"),
    "infill": ("suffix", "cannot infill, because its tokenizer has no FIM tokens; send only a prompt"),
}
