"""Bodies of the responses of `/v1/completions`, `/v1/chat/completions` and `/infill`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import kdtool

from kdtool_serve.devices import likelihood
from kdtool_serve.requests import Infill
from kdtool_serve.requests import InfillEnd as End
from kdtool_serve.responses import Generated


class _OpenAiForm:
    """The parts that both of OpenAI's endpoints share."""

    done = "[DONE]"
    json_lines = False
    prefix: str
    whole_object: str
    piece_object: str

    def __init__(self, model: str, *, logprobs: bool, usage: bool, per_prompt: int, natural_end: bool = False) -> None:
        self.natural_end = natural_end
        self._logprobs = logprobs
        self._usage = usage
        self._per_prompt = per_prompt
        self._base = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, all_generated: Sequence[Generated]) -> dict[str, Any]:
        """Return the body of finished answers."""
        choices = [self.choice(each) for each in self._rank(all_generated)]
        last = {"usage": self._count(all_generated), "timings": all_generated[0].timings()}
        return {**self._base, "object": self.whole_object, "choices": choices, **last}

    def end(self, all_generated: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield a chunk without choices that has the usage, if it is asked for."""
        if self._usage:
            yield {**self._chunk([]), "usage": self._count(all_generated), "timings": all_generated[0].timings()}

    def find_end(self, text: str) -> int | None:
        """Return None: answers end by themselves."""
        return None

    def choice(self, generated: Generated) -> dict[str, Any]:
        """Return a finished answer."""
        raise NotImplementedError

    def _rank(self, all_generated: Sequence[Generated]) -> Iterator[Generated]:
        """Yield the answers to each prompt, the likeliest first; those without log-probabilities keep their order."""
        for first in range(0, len(all_generated), self._per_prompt):
            answers = all_generated[first : first + self._per_prompt]
            ranked = sorted(answers, key=lambda each: -likelihood(each.logprobs))
            yield from (replace(each, number=number) for number, each in enumerate(ranked, first))

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._base, "object": self.piece_object, "choices": choices}

    def _last(self, generated: Generated, piece: kdtool.TextPiece) -> dict[str, Any]:
        """Return the fields that the last chunk of an answer has in addition to its choice."""
        return {"timings": generated.timings()} if piece.finish else {}

    def _count(self, all_generated: Sequence[Generated]) -> dict[str, int]:
        prompt = sum(generated.answer.tokens_in for generated in all_generated[:: self._per_prompt])
        answers = sum(generated.answer.tokens_out for generated in all_generated)
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

    def choice(self, generated: Generated) -> dict[str, Any]:
        """Return a finished answer."""
        text = self._echo_of(generated) + generated.text
        return self._choice(generated, text, generated.logprobs, generated.finish)

    def begin(self, generated: Generated) -> Iterator[dict[str, Any]]:
        """Yield the prompt if the request wants it repeated."""
        if echoed := self._echo_of(generated):
            yield self._chunk([self._choice(generated, echoed, [], None)])

    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a chunk with the piece's text."""
        if piece.text or piece.finish or piece.logprobs:
            choice = self._choice(generated, piece.text, piece.logprobs, piece.finish)
            yield {**self._chunk([choice]), **self._last(generated, piece)}

    def _echo_of(self, generated: Generated) -> str:
        return self._echo[generated.number] if self._echo else ""

    def _choice(
        self, generated: Generated, text: str, logprobs: Sequence[kdtool.TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        shown = self._legacy_logprobs(generated.number, logprobs) if self._logprobs else None
        return {
            "index": generated.number,
            "text": text,
            "logprobs": shown,
            "finish_reason": finish,
            **_stop_reason(generated),
        }

    def _legacy_logprobs(self, number: int, logprobs: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for token in logprobs:
            offsets.append(self._offsets.get(number, 0))
            self._offsets[number] = offsets[-1] + len(token.token)
        return {
            "tokens": [token.token for token in logprobs],
            "token_logprobs": [token.logprob for token in logprobs],
            "top_logprobs": [dict(token.top) for token in logprobs],
            "text_offset": offsets,
        }


class ChatForm(_OpenAiForm):
    """`/v1/chat/completions`."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def choice(self, generated: Generated) -> dict[str, Any]:
        """Return a finished answer."""
        message = {"role": "assistant", "content": generated.text, "refusal": None}
        shown = _chat_logprobs(generated.logprobs) if self._logprobs else None
        return {
            "index": generated.number,
            "message": message,
            "logprobs": shown,
            "finish_reason": generated.finish,
            **_stop_reason(generated),
        }  # fmt: skip

    def begin(self, generated: Generated) -> Iterator[dict[str, Any]]:
        """Yield the role."""
        yield self._delta(generated, {"role": "assistant", "content": ""}, (), None)

    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a chunk with the piece's text."""
        if piece.text or piece.finish or piece.logprobs:
            delta = {"content": piece.text} if piece.text or piece.logprobs else {}
            yield {**self._delta(generated, delta, piece.logprobs, piece.finish), **self._last(generated, piece)}

    def _delta(
        self, generated: Generated, delta: dict[str, str], logprobs: Sequence[kdtool.TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        shown = _chat_logprobs(logprobs) if self._logprobs else None
        choice = {
            "index": generated.number,
            "delta": delta,
            "logprobs": shown,
            "finish_reason": finish,
            **_stop_reason(generated),
        }
        return self._chunk([choice])


class InfillForm:
    """`/infill`, one answer. `truncated`: text of the request was left out."""

    done = ""
    natural_end = False
    json_lines = False

    def __init__(self, model: str, given: Infill, *, truncated: bool) -> None:
        self._model = model
        self._given = given
        self._truncated = truncated
        self.find_end = End(given).find_end

    def whole(self, all_generated: Sequence[Generated]) -> dict[str, Any]:
        """Return the finished answer."""
        (generated,) = all_generated
        text = generated.text if self._given.n_predict else ""
        body = {"content": text, **self._last(generated)}
        return _select(body, self._given.response_fields) if self._given.response_fields else body

    def begin(self, generated: Generated) -> Iterator[dict[str, Any]]:
        """Yield nothing."""
        yield from ()

    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a piece's text."""
        if piece.text and self._given.n_predict:
            yield {"index": 0, "content": piece.text, "stop": False}

    def end(self, all_generated: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield figures."""
        yield {"content": "", **self._last(all_generated[0])}

    def _last(self, generated: Generated) -> dict[str, Any]:
        return {
            "index": 0,
            "model": self._model,
            "stop": True,
            "stop_type": "limit" if generated.finish == "length" else "eos",
            "tokens_predicted": generated.answer.tokens_out,
            "tokens_evaluated": generated.answer.tokens_in,
            "truncated": self._truncated,
            "timings": generated.timings(),
        }


def _stop_reason(generated: Generated) -> dict[str, str]:
    """Return why an answer ended although the model would have continued."""
    return {"stop_reason": generated.reason} if generated.reason else {}


def _select(body: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return fields by path, such as "timings/prompt_n", which is also the name of the result. Unknown ones are left out."""
    selected: dict[str, Any] = {}
    for path in paths:
        value: Any = body
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            selected[path] = value
    return selected


def _chat_logprobs(logprobs: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {
                **describe_token(token.token, token.logprob),
                "top_logprobs": [describe_token(*each) for each in token.top],
            }
            for token in logprobs
        ],
        "refusal": None,
    }


def describe_token(token: str, logprob: float) -> dict[str, Any]:
    """Return a token with its bytes, if it has whole characters."""
    known = "\N{REPLACEMENT CHARACTER}" not in token  # else it is part of a character
    return {"token": token, "logprob": logprob, "bytes": [*token.encode()] if known else None}
