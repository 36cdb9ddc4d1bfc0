"""Bodies of the responses of `/v1/completions`, `/v1/chat/completions` and `/infill`."""

from __future__ import annotations

import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from math import isnan
from typing import Any

import kdtool

from kdtool_serve.devices import find_outdent, likelihood
from kdtool_serve.engine import Offsets
from kdtool_serve.requests import Chat, Completion, Infill
from kdtool_serve.responses import Form, Generated


class _OpenAiForm(Form):
    """The parts that both of OpenAI's endpoints share."""

    done = "[DONE]"
    prefix: str
    whole_object: str
    piece_object: str

    def __init__(self, model: str, given: Completion | Chat) -> None:
        self.natural_end = given.natural_end
        self.lists_tokens = given.logprobs is not None and given.logprobs is not False
        self._usage = given.stream_options.include_usage
        self._per_prompt = given.n
        self._base = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    @abstractmethod
    def content(self, generated: Generated) -> dict[str, Any]:
        """Return the field with a finished answer."""

    @abstractmethod
    def delta(self, piece: kdtool.TextPiece) -> dict[str, Any]:
        """Return the field with a piece."""

    @abstractmethod
    def describe_logprobs(self, number: int, logprobs: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
        """Return the log-probabilities of tokens of an answer."""

    def whole(self, all_generated: Sequence[Generated]) -> dict[str, Any]:
        """Return the body of finished answers."""
        choices = [
            self.choice(each, self.content(each), each.logprobs, each.finish) for each in self._rank(all_generated)
        ]
        last = {"usage": self._count(all_generated), "timings": all_generated[0].timings()}
        return {**self._base, "object": self.whole_object, "choices": choices, **last}

    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a chunk with the piece's text."""
        if piece.text or piece.finish or piece.logprobs:
            last = {"timings": generated.timings()} if piece.finish else {}
            yield {**self.chunk(self.choice(generated, self.delta(piece), piece.logprobs, piece.finish)), **last}

    def end(self, all_generated: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield a chunk without choices that has the usage, if it is asked for."""
        if self._usage:
            yield {**self.chunk(), "usage": self._count(all_generated), "timings": all_generated[0].timings()}

    def chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        """Return an event."""
        return {**self._base, "object": self.piece_object, "choices": choices}

    def choice(
        self,
        generated: Generated,
        content: dict[str, Any],
        logprobs: Sequence[kdtool.TokenLogprob] = (),
        finish: str | None = None,
    ) -> dict[str, Any]:
        """Return an answer or a part of it, with the reason of its end if the model would have continued."""
        return {
            "index": generated.number,
            **content,
            "logprobs": self.describe_logprobs(generated.number, logprobs) if self.lists_tokens else None,
            "finish_reason": finish,
            **({"stop_reason": generated.reason} if generated.reason else {}),
        }

    def _rank(self, all_generated: Sequence[Generated]) -> Iterator[Generated]:
        """Yield the answers to each prompt, the likeliest first; those without log-probabilities keep their order."""
        for first in range(0, len(all_generated), self._per_prompt):
            answers = all_generated[first : first + self._per_prompt]
            ranked = sorted(answers, key=lambda each: -likelihood(each.logprobs[each.answer.echoed :]))
            yield from (replace(each, number=number) for number, each in enumerate(ranked, first))

    def _count(self, all_generated: Sequence[Generated]) -> dict[str, int]:
        prompt = sum(generated.answer.tokens_in for generated in all_generated[:: self._per_prompt])
        answers = sum(generated.answer.tokens_out for generated in all_generated)
        return {"prompt_tokens": prompt, "completion_tokens": answers, "total_tokens": prompt + answers}


class CompletionForm(_OpenAiForm):
    """`/v1/completions`."""

    prefix = "cmpl"
    whole_object = piece_object = "text_completion"

    def __init__(self, model: str, given: Completion, prompts: Sequence[str]) -> None:
        super().__init__(model, given)
        repeated = [prompt for prompt in prompts for _ in range(given.n)]
        self._echoed = repeated if given.echo else []
        self._offsets = [Offsets(0 if given.echo else len(prompt)) for prompt in repeated]

    def content(self, generated: Generated) -> dict[str, Any]:
        """Return the text."""
        return {"text": self._echo_of(generated) + generated.text}

    def begin(self, generated: Generated) -> Iterator[dict[str, Any]]:
        """Yield the prompt if the request wants it repeated."""
        if echoed := self._echo_of(generated):
            yield self.chunk(self.choice(generated, {"text": echoed}))

    def delta(self, piece: kdtool.TextPiece) -> dict[str, Any]:
        """Return the text."""
        return {"text": piece.text}

    def describe_logprobs(self, number: int, logprobs: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
        """Return lists with an entry for each token."""
        offsets = [self._offsets[number].place(token) for token in logprobs]
        return {
            "tokens": [_name(token.token) for token in logprobs],
            "token_logprobs": [None if isnan(token.logprob) else token.logprob for token in logprobs],
            "top_logprobs": [None if isnan(token.logprob) else _name_each(token) for token in logprobs],
            "text_offset": offsets,
        }

    def _echo_of(self, generated: Generated) -> str:
        return self._echoed[generated.number] if self._echoed else ""


class ChatForm(_OpenAiForm):
    """`/v1/chat/completions`."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def content(self, generated: Generated) -> dict[str, Any]:
        """Return the message."""
        return {"message": {"role": "assistant", "content": generated.text, "refusal": None}}

    def begin(self, generated: Generated) -> Iterator[dict[str, Any]]:
        """Yield the role."""
        yield self.chunk(self.choice(generated, {"delta": {"role": "assistant", "content": ""}}))

    def delta(self, piece: kdtool.TextPiece) -> dict[str, Any]:
        """Return the message's new text."""
        return {"delta": {"content": piece.text} if piece.text or piece.logprobs else {}}

    def describe_logprobs(self, number: int, logprobs: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
        """Return a list of tokens, each with the likeliest ones at its place."""
        content = [
            {**describe_token(each.token, each.logprob), "top_logprobs": [describe_token(*top) for top in each.top]}
            for each in logprobs
        ]
        return {"content": content, "refusal": None}


class InfillForm(Form):
    """`/infill`, one answer. `truncated`: text of the request was left out."""

    def __init__(self, model: str, given: Infill, *, truncated: bool) -> None:
        self._model = model
        self._given = given
        self._truncated = truncated
        self._began = 0.0

    def whole(self, all_generated: Sequence[Generated]) -> dict[str, Any]:
        """Return the finished answer."""
        (generated,) = all_generated
        text = generated.text if self._given.n_predict else ""
        body = {"content": text, **self._last(generated)}
        return _select(body, self._given.response_fields) if self._given.response_fields else body

    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a piece's text."""
        if piece.text and self._given.n_predict:
            yield {"index": 0, "content": piece.text, "stop": False}

    def end(self, all_generated: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield figures."""
        yield {"content": "", **self._last(all_generated[0])}

    def find_end(self, text: str) -> int | None:
        """End before a line that is indented less than `n_indent`, or at a line's end after `t_max_predict_ms`."""
        self._began = self._began or time.perf_counter()
        if (kept := find_outdent(text, self._given.n_indent)) is not None:
            return kept
        seconds = max(0, self._given.t_max_predict_ms) / 1000
        late = seconds and time.perf_counter() - self._began > seconds
        return text.rindex("\n") if late and "\n" in text else None

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


def describe_token(token: str, logprob: float) -> dict[str, Any]:
    """Return a token with its bytes, which may be part of a character."""
    written = token.encode("utf-8", "surrogateescape")
    return {"token": written.decode("utf-8", "replace"), "logprob": logprob, "bytes": [*written]}


def _name(token: str, *, by_bytes: bool = False) -> str:
    """Return a token's text, or its bytes as OpenAI writes those of incomplete characters."""
    written = token.encode("utf-8", "surrogateescape")
    if written.decode("utf-8", "replace") == token and not by_bytes:
        return token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)


def _name_each(token: kdtool.TokenLogprob) -> dict[str, float]:
    """Return the likeliest tokens instead of one, each under another name; that of the token itself is only its own."""
    named: dict[str, float] = {}
    for text, logprob in token.top:
        taken = {*named, *([_name(token.token)] if logprob != token.logprob else [])}
        names = chain([_name(text)], (_name(text, by_bytes=True) + " " * number for number in count()))
        named[next(name for name in names if name not in taken)] = logprob
    return named
