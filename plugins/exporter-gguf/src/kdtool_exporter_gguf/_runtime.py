"""A GGUF file opened for measurement: answers and log-likelihoods, both computed by llama.cpp."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import kdtool

from kdtool_exporter_gguf._scoring import Piece, log_likelihood, pieces
from kdtool_exporter_gguf._server import LlamaCpp, RefusedError

__all__ = ["GGUFRuntime"]

_DOCUMENT_ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|end▁of▁sentence|>")
"""What ends a document in pre-training; files of chat models name the end of a turn as their end-of-sequence token."""
_LONGEST_WINDOW = 2048
"""Tokens that a token's likelihood may depend on, as in kdtool_transformers."""
_TOO_LONG = "exceed_context_size_error"
"""What llama.cpp calls a prompt that does not fit."""
_PURE = {"samplers": ["temperature"], "cache_prompt": False}
"""Draws from softmax(logits / temperature), the greatest at 0; nothing of earlier requests is used again."""


class GGUFRuntime(kdtool.Runtime):
    """Asks llama.cpp one thing at a time, so that nothing depends on what is asked beside it.

    `server` is what it asks. Arguments as `LlamaCpp`.
    """

    def __init__(self, file: Path, *, context: int, threads: int | None) -> None:
        self.server = LlamaCpp(file, context=context, threads=threads)
        if not _has_chat_template(file):
            self.abilities = frozenset[kdtool.Ability]({"continue", "score"})

    def __enter__(self) -> Self:
        return self

    def answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Answer requests in their order; one whose prompt does not fit into the context is "refused".

        Raises:
            UsageError: the file's template refuses a conversation.
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

        The first token is predicted from the one that llama.cpp puts before a text, or from the end of text where it puts
        none. Long texts are cut into windows that advance by half, as those of `kdtool_transformers.TransformersRuntime`.
        """
        window = min(_LONGEST_WINDOW, self.context - 1)
        for text in texts:
            tokens = [*(self._start or [self._end_of_text]), *pieces(self.server, text)]
            total = log_likelihood(self.server, tokens, window)
            yield kdtool.LogLikelihood(total, tokens=len(tokens) - 1, bytes=len(text.encode("utf-8")))

    @cached_property
    def context(self) -> int:
        """Tokens of a prompt and its answer at most."""
        return int(self.server.get("/props")["default_generation_settings"]["n_ctx"])

    def count(self, text: str) -> int:
        """Return how many tokens a text is."""
        return len(pieces(self.server, text))

    def close(self) -> None:
        """End llama.cpp."""
        self.server.close()

    @cached_property
    def _start(self) -> list[Piece]:
        """Tokens that llama.cpp puts before a text: one, or none."""
        return pieces(self.server, "", begun=True)

    @cached_property
    def _end_of_text(self) -> Piece:
        known = self.server.get("/props")["eos_token"]
        for token in (*_DOCUMENT_ENDS, known):
            found = pieces(self.server, token) if token else []
            if len(found) == 1:
                return found[0]
        raise kdtool.UsageError("the file names no end-of-sequence token")

    def _body(self, request: kdtool.Request) -> dict[str, Any]:
        return {
            **_PURE,
            "prompt": [piece.id for piece in self._prompt(request) or [self._end_of_text]],
            "n_predict": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed % 2**32,
            "stop": list(request.stop),
        }

    def _prompt(self, request: kdtool.Request) -> list[Piece]:
        """Return the tokens of a prompt. Given text, llama.cpp would put a start before one that has it already."""
        found = pieces(self.server, self._written(request))
        return found if found[:1] == self._start else [*self._start, *found]

    def _written(self, request: kdtool.Request) -> str:
        if not request.turns:
            return request.prompt
        messages = [{"role": role, "content": content} for role, content in request.turns]
        written: str = self.server.post("/apply-template", {"messages": messages})["prompt"]
        return written + request.prompt


def _answer(request: kdtool.Request, told: Mapping[str, Any]) -> kdtool.TextAnswer:
    return kdtool.TextAnswer(
        id=request.id,
        text=told["content"],
        finish="length" if told["stop_type"] == "limit" else "stop",
        tokens_in=told["tokens_evaluated"],
        tokens_out=told["tokens_predicted"],
    )


def _has_chat_template(file: Path) -> bool:
    from gguf import GGUFReader

    return GGUFReader(file).get_field("tokenizer.chat_template") is not None
