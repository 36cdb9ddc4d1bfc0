"""GGUF files opened for measurement: llama.cpp computes answers, streams and log-likelihoods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

import kdtool
import torch
from kdtool_torch import require_finite, windows
from kdtool_transformers import Infilling, held_back, infilling_by, trim_suffix

from kdtool_export.gguf.decoder import Decoder
from kdtool_export.gguf.processes import Child, LlamaCpp, RefusedError

_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>")
"""End-of-document tokens of pre-training; in chat models, the end-of-sequence token of a file ends a turn instead."""
_LONGEST_WINDOW = 2048
"""Maximum tokens of context for scoring, as in kdtool_transformers."""
_TOO_LONG = "exceed_context_size_error"
"""llama.cpp's error type for a prompt that exceeds the context."""
_STREAMS = 4


class GGUFRuntime(kdtool.Runtime):
    """A file's processes: `decoder` reads text, `server` answers for measurements, and another server streams.

    `server` gets one request at a time and reuses nothing, so that results do not depend on other requests; the one that
    streams serves several at once, and reads only the new part of a prompt. Each starts with the first request for it.
    Arguments as for `LlamaCpp`.
    """

    streams = _STREAMS

    def __init__(self, file: Path, *, context: int, threads: int | None = None) -> None:
        self.file, self.threads = file, threads
        self.decoder = Decoder(file, context=context, threads=threads)
        self.context = self.decoder.context
        self._asked_context = context
        self._streaming: LlamaCpp | None = None
        self._starting = Lock()
        self.abilities = frozenset(self._find_abilities())

    def __enter__(self) -> Self:
        return self

    @cached_property
    def server(self) -> LlamaCpp:
        """The running server."""
        return LlamaCpp(self.file, context=self._asked_context, threads=self.threads)

    @property
    def infilling(self) -> Infilling | None:
        """The FIM tokens of the file; None if it has none."""
        return infilling_by(*self.decoder.infilling.values()) if self.decoder.infilling else None

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests in order; a prompt that exceeds the context is "refused".

        Raises:
            UsageError: the file's chat template rejects a conversation.
        """
        for request in requests:
            try:
                marks = self._marks(request)
                body = completion(request, self._prompt(request, self.server), marks)
                body |= {"stop": [*request.stop, *marks], "cache_prompt": False}
                yield text_answer(request, self.server.post("/completion", body))
            except RefusedError as error:
                if error.kind == _TOO_LONG:
                    yield kdtool.TextAnswer(request.id, "", "refused", 0, 0)
                    continue
                raise _refusal(request, error) from None

    def stream(self, request: kdtool.Request) -> Iterator[kdtool.TextPiece]:
        """Yield an answer while it is generated. If llama.cpp ended over an earlier one, it starts again.

        Raises:
            UsageError: the file's chat template rejects a conversation, or the file names no tokens for infilling.
            PluginError: llama.cpp has ended.
        """
        server, marks = self._streaming_server(), self._marks(request)
        try:
            body = completion(request, self._prompt(request, server), marks)
            body |= {"cache_prompt": True, "return_progress": True}
            with closing(server.events("/completion", body)) as events:
                yield from text_pieces(request, [*request.stop, *marks], events)
        except RefusedError as error:
            if error.kind != _TOO_LONG:
                raise _refusal(request, error) from None
            reason = f"the prompt fills the context of {self.context} tokens"
            yield kdtool.TextPiece("", 0, 0, "refused", reason)

    def memory(self) -> int | None:
        """Return the bytes of memory of the processes that run."""
        sizes = [child.memory() for child in self._children()]
        return None if None in sizes else sum(filter(None, sizes))

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order.

        The first token is predicted from the start token that llama.cpp prepends, or from a line break if it prepends none
        (`kdtool.Tokenizer.scoring_context`). Long texts are cut into windows that advance by half, as in
        `kdtool_transformers.TransformersRuntime`.
        """
        context = self.decoder.start or self.decoder.tokenize("\n") or [self._end_of_text]
        for text in texts:
            tokens = [*context, *self.decoder.tokenize(text)]
            total = sum(
                self._log_likelihood(tokens[start : stop + 1], scored - start)
                for start, scored, stop in windows(
                    len(tokens) - 1, min(_LONGEST_WINDOW, self.context), len(context) - 1
                )
            )
            yield kdtool.LogLikelihood(total, tokens=len(tokens) - len(context), bytes=len(text.encode("utf-8")))

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.decoder.tokenize(text))

    def close(self) -> None:
        """End llama.cpp."""
        for child in self._children():
            child.close()

    def _children(self) -> Iterator[Child]:
        yield self.decoder
        if "server" in self.__dict__:
            yield self.server
        if self._streaming is not None:
            yield self._streaming

    def _streaming_server(self) -> LlamaCpp:
        """Return the running server for streams, after starting it if it does not run."""
        with self._starting:
            if self.decoder.process.poll() is not None:
                raise self.decoder.end_error()
            if self._streaming is not None and self._streaming.process.poll() is not None:
                self._streaming.close()
                self._streaming = None
            if self._streaming is None:
                threads = self.threads or torch.get_num_threads()  # PyTorch's are as many as physical cores
                self._streaming = LlamaCpp(self.file, context=self.context, threads=threads, slots=_STREAMS)
            return self._streaming

    def _find_abilities(self) -> Iterator[kdtool.Ability]:
        yield from ("continue", "score")
        if self.decoder.converses:
            yield from ("converse", "prefill")
        if self.decoder.infilling:
            yield "infill"

    def _log_likelihood(self, tokens: Sequence[int], first: int) -> float:
        """Return the log-likelihood of all tokens after number `first`, each given those before it, in nats."""
        total, done = 0.0, first + 1
        for chunk in self.decoder.logits(tokens[:-1], first):
            logits = torch.from_numpy(chunk)
            targets = torch.tensor(tokens[done : done + len(chunk)])
            done += len(chunk)
            log_probabilities = logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)
            require_finite(log_probabilities, str(self.file))
            total += float(log_probabilities.double().sum())
        return total

    @cached_property
    def _end_of_text(self) -> int:
        for token in _DOCUMENT_ENDS:
            ids = self.decoder.tokenize(token, marked=True)
            if len(ids) == 1:
                return ids[0]
        if self.decoder.end < 0:
            raise kdtool.UsageError(
                "the GGUF file has no end-of-sequence token, which scoring needs; convert the model again"
            )
        return self.decoder.end

    def _prompt(self, request: kdtool.Request, server: LlamaCpp) -> list[int]:
        """Return the tokens of a prompt. Given text, llama.cpp would prepend a second start token."""
        if request.suffix is not None:
            return self._infilling(request, request.suffix)
        marks = self.decoder.infilling.values()
        marked = bool(request.turns) or bool(marks and infilling_by(*marks).writes(request.prompt))
        ids = self.decoder.tokenize(_render(request, server), marked=marked)
        start = self.decoder.start
        return (ids if ids[:1] == start else [*start, *ids]) or [self._end_of_text]

    def _marks(self, request: kdtool.Request) -> list[str]:
        """Return the tokens that end an infilled answer."""
        return [] if request.suffix is None else [*self.decoder.infilling.values()]

    def _infilling(self, request: kdtool.Request, suffix: str) -> list[int]:
        if "infill" not in self.abilities:
            raise kdtool.UsageError(
                f"request {request.id} has a suffix, but {self.file} names no tokens for infilling; expected "
                "tokenizer.ggml.fim_pre_token_id, fim_suf_token_id and fim_mid_token_id: use a model that learned infilling"
            )
        if request.turns:
            raise kdtool.UsageError(f"request {request.id} has turns and a suffix; expected one of them: leave one out")
        return self.decoder.tokenize_infilling(request.prompt, suffix)


def _render(request: kdtool.Request, server: LlamaCpp) -> str:
    if not request.turns:
        return request.prompt
    messages = [{"role": role, "content": content} for role, content in request.turns]
    rendered: str = server.post("/apply-template", {"messages": messages})["prompt"]
    return rendered + request.prompt


def _refusal(request: kdtool.Request, error: RefusedError) -> kdtool.UsageError:
    return kdtool.UsageError(f"llama.cpp refuses request {request.id}: {error}")


_FINAL = ["stop", "stop_type", "content", "tokens_evaluated", "tokens_predicted"]
"""Fields of the last response. The others repeat the prompt."""


def completion(request: kdtool.Request, prompt: Sequence[int], marks: Sequence[str]) -> dict[str, Any]:
    """Return the body of a request to `/completion`: no samplers but those asked for, special tokens as text if `marks`."""
    samplers = ["temperature"]
    if request.top_k > 0:
        samplers.append("top_k")
    if request.top_p < 1:
        samplers.append("top_p")
    body = {
        "prompt": [*prompt],
        "n_predict": request.max_tokens,
        "temperature": request.temperature,
        "top_k": request.top_k,
        "top_p": request.top_p,
        "samplers": samplers,
        "seed": request.seed % 2**32,
        "preserved_tokens": [*marks],
        "response_fields": _FINAL,
    }
    if request.logprobs is not None:
        body["n_probs"] = max(1, request.logprobs)
    return body


def text_answer(request: kdtool.Request, response: Mapping[str, Any]) -> kdtool.TextAnswer:
    """Return the answer in a response."""
    finish = _finish(response)
    return kdtool.TextAnswer(
        id=request.id,
        text=trim_suffix(response["content"], request.suffix or "", cut=finish == "length"),
        finish=finish,
        tokens_in=response["tokens_evaluated"],
        tokens_out=response["tokens_predicted"],
    )


def text_pieces(
    request: kdtool.Request, stops: Sequence[str], events: Iterable[Mapping[str, Any]]
) -> Iterator[kdtool.TextPiece]:
    """Yield the piece of an answer in each event, and without text while the prompt is read; the answer ends before `stops`.

    Text that may begin a stop string, or repeat the beginning of the suffix, is held back. Stop strings are not sent with
    the request: llama.cpp would not return such text if the answer then ends otherwise.
    """
    text, shown, suffix = "", 0, request.suffix or ""
    for event in events:
        text += event["content"]
        ends = [position for position in (text.find(stop, shown) for stop in stops) if position >= 0]
        finish: Literal["stop", "length"] | None = "stop" if ends else _finish(event) if event["stop"] else None
        if finish:
            text = trim_suffix(text[: min(ends, default=len(text))], suffix, cut=finish == "length")
            ready = len(text)
        else:
            ready = len(text) - held_back(text[shown:], stops, suffix)
        yield kdtool.TextPiece(
            text=text[shown:ready],
            tokens_in=event["tokens_evaluated"],
            tokens_out=event["tokens_predicted"],
            finish=finish,
            logprobs=tuple(_logprobs(event, request.logprobs)),
        )
        if finish:
            return
        shown = ready


def _finish(response: Mapping[str, Any]) -> Literal["stop", "length"]:
    return "length" if response["stop_type"] == "limit" else "stop"


def _logprobs(event: Mapping[str, Any], count: int | None) -> Iterator[kdtool.TokenLogprob]:
    for generated in event.get("completion_probabilities", ()):
        top = tuple((_text(other), other["logprob"]) for other in generated["top_logprobs"][:count])
        yield kdtool.TokenLogprob(_text(generated), generated["logprob"], top)


def _text(token: Mapping[str, Any]) -> str:
    """Return a token's text, with surrogate escapes for bytes of incomplete characters."""
    return bytes(token["bytes"]).decode("utf-8", "surrogateescape")
