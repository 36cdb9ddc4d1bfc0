"""A GGUF file opened for measurement; llama.cpp computes answers and log-likelihoods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import kdtool
import torch
from kdtool_transformers import windows

from kdtool_exporter_gguf._decoder import Decoder
from kdtool_exporter_gguf._server import LlamaCpp, RefusedError

__all__ = ["GGUFRuntime"]

_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>")
"""End-of-document tokens of pre-training; in chat models, the end-of-sequence token of a file ends a turn instead."""
_LONGEST_WINDOW = 2048
"""Maximum tokens of context for scoring, as in kdtool_transformers."""
_TOO_LONG = "exceed_context_size_error"
"""llama.cpp's error type for a prompt that exceeds the context."""
_PURE = {"samplers": ["temperature"], "cache_prompt": False}
"""Sample from softmax(logits / temperature), greedily at 0, without reusing earlier requests."""


class GGUFRuntime(kdtool.Runtime):
    """Sends llama.cpp one request at a time, so that results do not depend on other requests.

    `decoder` reads text. The `server` that answers starts with the first request for an answer. Arguments as for `LlamaCpp`.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None) -> None:
        self._open = {"file": file, "context": context, "threads": threads}
        self.decoder = Decoder(**self._open)  # type: ignore[arg-type]
        self.context = self.decoder.context
        if not _has_chat_template(file):
            self.abilities = frozenset[kdtool.Ability]({"continue", "score"})

    def __enter__(self) -> Self:
        return self

    @cached_property
    def server(self) -> LlamaCpp:
        """The running server."""
        return LlamaCpp(**self._open)  # type: ignore[arg-type]

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests in order; a prompt that exceeds the context is "refused".

        Raises:
            UsageError: the file's chat template rejects a conversation.
        """
        for request in requests:
            try:
                yield _answer(request, self.server.post("/completion", self._body(request)))
            except RefusedError as error:
                if error.kind == _TOO_LONG:
                    yield kdtool.TextAnswer(request.id, "", "refused", 0, 0)
                    continue
                raise kdtool.UsageError(f"llama.cpp refuses request {request.id}: {error}") from None

    def score(self, texts: Sequence[str]) -> Iterator[kdtool.LogLikelihood]:
        """Yield each text's log-likelihood, in order.

        The first token is predicted from the start token that llama.cpp prepends, or from the end-of-text token if it
        prepends none. Long texts are cut into windows that advance by half, as in
        `kdtool_transformers.TransformersRuntime`.
        """
        for text in texts:
            tokens = [*(self.decoder.start or [self._end_of_text]), *self.decoder.tokenize(text)]
            total = sum(
                self._log_likelihood(tokens[start : stop + 1], scored - start)
                for start, scored, stop in windows(len(tokens) - 1, min(_LONGEST_WINDOW, self.context))
            )
            yield kdtool.LogLikelihood(total, tokens=len(tokens) - 1, bytes=len(text.encode("utf-8")))

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.decoder.tokenize(text))

    def close(self) -> None:
        """End llama.cpp."""
        self.decoder.close()
        if "server" in self.__dict__:
            self.server.close()

    def _log_likelihood(self, tokens: Sequence[int], first: int) -> float:
        """Return the log-likelihood of all tokens behind number `first`, each given those before it, in nats."""
        total, done = 0.0, first + 1
        for chunk in self.decoder.logits(tokens[:-1], first):
            logits = torch.from_numpy(chunk)
            targets = torch.tensor(tokens[done : done + len(chunk)])
            done += len(chunk)
            found = logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)
            total += float(found.double().sum())
        return total

    @cached_property
    def _end_of_text(self) -> int:
        for token in _DOCUMENT_ENDS:
            found = self.decoder.tokenize(token)
            if len(found) == 1:
                return found[0]
        if self.decoder.end < 0:
            raise kdtool.UsageError(
                "the GGUF file has no end-of-sequence token, which scoring needs; convert the model again"
            )
        return self.decoder.end

    def _body(self, request: kdtool.Request) -> dict[str, Any]:
        return {
            **_PURE,
            "prompt": self._prompt(request) or [self._end_of_text],
            "n_predict": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed % 2**32,
            "stop": list(request.stop),
        }

    def _prompt(self, request: kdtool.Request) -> list[int]:
        """Return the tokens of a prompt. Given text, llama.cpp would prepend a second start token."""
        found, start = self.decoder.tokenize(self._render(request)), self.decoder.start
        return found if found[:1] == start else [*start, *found]

    def _render(self, request: kdtool.Request) -> str:
        if not request.turns:
            return request.prompt
        messages = [{"role": role, "content": content} for role, content in request.turns]
        rendered: str = self.server.post("/apply-template", {"messages": messages})["prompt"]
        return rendered + request.prompt


def _answer(request: kdtool.Request, response: Mapping[str, Any]) -> kdtool.TextAnswer:
    return kdtool.TextAnswer(
        id=request.id,
        text=response["content"],
        finish="length" if response["stop_type"] == "limit" else "stop",
        tokens_in=response["tokens_evaluated"],
        tokens_out=response["tokens_predicted"],
    )


def _has_chat_template(file: Path) -> bool:
    from gguf import GGUFReader

    return GGUFReader(file).get_field("tokenizer.chat_template") is not None
