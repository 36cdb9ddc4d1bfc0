"""Responses of `/v1/completions`, `/v1/chat/completions` and `/infill`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import kdtool

from kdtool_command_serve.answering import Generated
from kdtool_command_serve.infilling import End
from kdtool_command_serve.parameters import Infill

__all__ = ["ChatForm", "CompletionForm", "InfillForm"]


class _OpenAiForm:
    """The parts that both of OpenAI's endpoints share."""

    done = "[DONE]"
    prefix: str
    whole_object: str
    piece_object: str

    def __init__(self, model: str, *, logprobs: bool, usage: bool, per_prompt: int, natural_end: bool = False) -> None:
        self.natural_end = natural_end
        self._logprobs = logprobs
        self._usage = usage
        self._per_prompt = per_prompt
        self._base = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, found: Sequence[Generated]) -> dict[str, Any]:
        """Return the body of finished answers."""
        choices = [self.choice(one) for one in found]
        last = {"usage": self._count(found), "timings": found[0].timings()}
        return {**self._base, "object": self.whole_object, "choices": choices, **last}

    def end(self, found: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield a chunk without choices that has the usage, if it is asked for."""
        if self._usage:
            yield {**self._chunk([]), "usage": self._count(found), "timings": found[0].timings()}

    def find_end(self, text: str) -> int | None:
        """Return None: answers end by themselves."""
        return None

    def choice(self, one: Generated) -> dict[str, Any]:
        """Return a finished answer."""
        raise NotImplementedError

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._base, "object": self.piece_object, "choices": choices}

    def _last(self, one: Generated, piece: kdtool.TextPiece) -> dict[str, Any]:
        """Return what the last chunk of an answer has besides its choice."""
        return {"timings": one.timings()} if piece.finish else {}

    def _count(self, found: Sequence[Generated]) -> dict[str, int]:
        prompt = sum(one.answer.tokens_in for one in found[:: self._per_prompt])
        answers = sum(one.answer.tokens_out for one in found)
        return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


class CompletionForm(_OpenAiForm):
    """`/v1/completions`. `echo` are the prompts to repeat, one for each answer, or none."""

    prefix = "cmpl"
    whole_object = piece_object = "text_completion"

    def __init__(
        self,
        model: str,
        echo: Sequence[str],
        *,
        logprobs: bool,
        usage: bool,
        per_prompt: int,
        natural_end: bool = False,
    ) -> None:
        super().__init__(model, logprobs=logprobs, usage=usage, per_prompt=per_prompt, natural_end=natural_end)
        self._echo = echo
        self._offsets: dict[int, int] = {}

    def choice(self, one: Generated) -> dict[str, Any]:
        """Return a finished answer."""
        text = self._echo_of(one) + one.text
        return self._choice(one, text, one.logprobs, one.finish)

    def begin(self, one: Generated) -> Iterator[dict[str, Any]]:
        """Yield the prompt if the request wants it repeated."""
        if echoed := self._echo_of(one):
            yield self._chunk([self._choice(one, echoed, [], None)])

    def piece(self, one: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a chunk with the piece's text."""
        if piece.text or piece.finish or piece.logprobs:
            choice = self._choice(one, piece.text, piece.logprobs, piece.finish)
            yield {**self._chunk([choice]), **self._last(one, piece)}

    def _echo_of(self, one: Generated) -> str:
        return self._echo[one.number] if self._echo else ""

    def _choice(
        self, one: Generated, text: str, logprobs: Sequence[kdtool.TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        shown = self._legacy_logprobs(one.number, logprobs) if self._logprobs else None
        return {"index": one.number, "text": text, "logprobs": shown, "finish_reason": finish, **_stop_reason(one)}

    def _legacy_logprobs(self, number: int, found: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for token in found:
            offsets.append(self._offsets.get(number, 0))
            self._offsets[number] = offsets[-1] + len(token.token)
        return {
            "tokens": [token.token for token in found],
            "token_logprobs": [token.logprob for token in found],
            "top_logprobs": [dict(token.top) for token in found],
            "text_offset": offsets,
        }


class ChatForm(_OpenAiForm):
    """`/v1/chat/completions`."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def choice(self, one: Generated) -> dict[str, Any]:
        """Return a finished answer."""
        message = {"role": "assistant", "content": one.text, "refusal": None}
        shown = _chat_logprobs(one.logprobs) if self._logprobs else None
        return {
            "index": one.number, "message": message, "logprobs": shown, "finish_reason": one.finish, **_stop_reason(one)
        }  # fmt: skip

    def begin(self, one: Generated) -> Iterator[dict[str, Any]]:
        """Yield the role."""
        yield self._delta(one, {"role": "assistant", "content": ""}, (), None)

    def piece(self, one: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a chunk with the piece's text."""
        if piece.text or piece.finish or piece.logprobs:
            delta = {"content": piece.text} if piece.text or piece.logprobs else {}
            yield {**self._delta(one, delta, piece.logprobs, piece.finish), **self._last(one, piece)}

    def _delta(
        self, one: Generated, delta: dict[str, str], logprobs: Sequence[kdtool.TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        shown = _chat_logprobs(logprobs) if self._logprobs else None
        choice = {"index": one.number, "delta": delta, "logprobs": shown, "finish_reason": finish, **_stop_reason(one)}
        return self._chunk([choice])


class InfillForm:
    """`/infill`, one answer. `truncated`: text of the request was left out."""

    done = ""
    natural_end = False

    def __init__(self, model: str, given: Infill, *, truncated: bool) -> None:
        self._model = model
        self._given = given
        self._truncated = truncated
        self.find_end = End(given).find_end

    def whole(self, found: Sequence[Generated]) -> dict[str, Any]:
        """Return the finished answer."""
        (one,) = found
        text = one.text if self._given.n_predict else ""
        body = {"content": text, **self._last(one)}
        return _select(body, self._given.response_fields) if self._given.response_fields else body

    def begin(self, one: Generated) -> Iterator[dict[str, Any]]:
        """Yield nothing."""
        yield from ()

    def piece(self, one: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a piece's text."""
        if piece.text and self._given.n_predict:
            yield {"index": 0, "content": piece.text, "stop": False}

    def end(self, found: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield figures."""
        yield {"content": "", **self._last(found[0])}

    def _last(self, one: Generated) -> dict[str, Any]:
        return {
            "index": 0,
            "model": self._model,
            "stop": True,
            "stop_type": "limit" if one.finish == "length" else "eos",
            "tokens_predicted": one.answer.tokens_out,
            "tokens_evaluated": one.answer.tokens_in,
            "truncated": self._truncated,
            "timings": one.timings(),
        }


def _stop_reason(one: Generated) -> dict[str, str]:
    """Return why an answer ended although the model would have gone on."""
    return {"stop_reason": one.reason} if one.reason else {}


def _select(body: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return fields by path, such as "timings/prompt_n", which is also the name of the result. Unknown ones are left out."""
    found: dict[str, Any] = {}
    for path in paths:
        value: Any = body
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[path] = value
    return found


def _chat_logprobs(found: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {**_token(one.token, one.logprob), "top_logprobs": [_token(*each) for each in one.top]} for one in found
        ],
        "refusal": None,
    }


def _token(token: str, logprob: float) -> dict[str, Any]:
    known = "\N{REPLACEMENT CHARACTER}" not in token  # else it is part of a character
    return {"token": token, "logprob": logprob, "bytes": [*token.encode()] if known else None}
