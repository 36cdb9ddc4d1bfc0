"""One server and its states: a prompt's token ids become the states of all its tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

import kdtool
import torch
from kdtool_teacher_openai.client import OpenAIConfig, RefusedError, Server, choice_of
from torch import Tensor

from kdtool_teacher_vllm._chosen import Question, decode
from kdtool_teacher_vllm._source import LostError, Source

__all__ = ["Station"]


class Station:
    """A server, which runs `KdtoolStates` if it has a `source` of states. Threads may share it.

    `checked` is true once the server was found to serve the right model; `lock` is for the thread that finds out.
    `settings` are those of its connection; `tokens` and `bytes` count what it returned, and `answered` is the time of its
    last answer, by `time.monotonic`.
    """

    def __init__(self, config: OpenAIConfig, source: Source | None, model: str | None, *, offline: bool) -> None:
        self.url = config.url
        self.settings = config
        self.checked = False
        self.lock = Lock()
        self.server = Server(config, offline=offline)
        self.source = source
        self._model = model
        self.tokens = self.bytes = 0
        self.answered = 0.0

    def name(self) -> str:
        """Return the name under which the server lists the model. Raises as `ask`, except for lost states."""
        if self._model is None:
            listed = self.server.get("/models")
            entries = listed.get("data") if isinstance(listed, Mapping) else None
            names = [str(entry["id"]) for entry in entries or () if not entry.get("parent")]
            if not names:
                raise kdtool.UsageError(f"url: {self.url} lists no model; give the address of a vLLM server")
            self._model = names[0]
        return self._model

    def ask(self, ids: Sequence[int]) -> Tensor:
        """Return the states [tokens, layers, width] of a prompt.

        Raises:
            LostError: they are not available now.
            ServiceError: the server does not answer.
            UsageError: the server refuses the prompt, or does not return states.
        """
        answer = self._complete(ids)
        path = (answer.get("kv_transfer_params") or {}).get("hidden_states_path")
        if not isinstance(path, str):
            raise kdtool.UsageError(
                f"the server at {self.url} returns no hidden states; start it with the command that "
                "`kdtool teacher serve RECIPE` prints"
            )
        tensors = self.take(path)
        states, stored = tensors.get("hidden_states"), tensors.get("token_ids")
        if states is None or stored is None or states.dim() != 3 or stored.tolist() != list(ids):
            raise LostError(f"{path} holds the states of another prompt")
        self.tokens += len(ids)
        self.bytes += states.nbytes
        return states

    def log_probabilities(self, ids: Sequence[int]) -> Tensor:
        """Return the server's own log-probability of each token but the first, [tokens - 1]. Raises as `ask`."""
        answer = self._complete(ids, prompt_logprobs=0)
        path = (answer.get("kv_transfer_params") or {}).get("hidden_states_path")
        if isinstance(path, str):
            self.take(path)
        listed = choice_of(answer).get("prompt_logprobs")
        if not isinstance(listed, list) or len(listed) != len(ids):
            raise kdtool.UsageError(
                f"the server at {self.url} returns no prompt_logprobs; give the address of a vLLM server"
            )
        entries = zip(listed[1:], ids[1:], strict=True)
        return torch.tensor([float(entry[str(token)]["logprob"]) for entry, token in entries])

    def score(self, question: Question) -> Tensor:
        """Return the server's log-probabilities [rows, K] of a question's ids.

        Raises:
            AuthenticationError: the key is missing or refused.
            ServiceError: the server does not answer.
            UsageError: the server refuses the question, or does not score tokens.
        """
        wanted = {"prompt_logprob_token_ids": question.rows, "prompt_logprob_start": question.start}
        body = {
            "model": self.name(),
            "token_ids": list(question.ids),
            "sampling_params": {"max_tokens": 1, "temperature": 0, **wanted},
        }
        try:
            answer = self.server.post(f"{self.url.removesuffix('/v1')}/inference/v1/generate", body)
        except (RefusedError, kdtool.AuthenticationError) as error:
            if isinstance(error, kdtool.AuthenticationError) and "--enable-scale-out" not in str(error):
                raise
            raise kdtool.UsageError(
                f"the server at {self.url} does not score chosen tokens: {error}; start it with the command that `kdtool "
                "teacher serve RECIPE` prints, or set `chosen: states`"
            ) from None
        self.answered = time.monotonic()
        try:
            scores = decode(answer["prompt_token_id_logprobs"])
        except (EOFError, KeyError, TypeError, ValueError):
            scores = torch.zeros(0)
        if scores.dim() != 2 or len(scores) != len(question.rows) or scores.shape[1] != max(map(len, question.rows)):
            raise kdtool.UsageError(
                f"the server at {self.url} returns no prompt_token_id_logprobs for the rows that were asked; "
                "`chosen: server` needs vLLM 0.32 or newer"
            )
        self.tokens += len(question.ids)
        self.bytes += scores.nbytes
        return scores

    def take(self, path: str) -> Mapping[str, Tensor]:
        """Return the tensors of a file that the server named. Raises as `ask`."""
        if self.source is None:
            raise kdtool.UsageError(
                f"the server at {self.url} writes hidden states, which `chosen: server` does not read; start it with the "
                "command that `kdtool teacher serve RECIPE` prints"
            )
        return self.source.take(PurePosixPath(path).name)

    def close(self) -> None:
        """Close the connections."""
        self.server.close()
        if self.source is not None:
            self.source.close()

    def _complete(self, ids: Sequence[int], **more: int) -> Mapping[str, Any]:
        body = {"model": self.name(), "prompt": list(ids), "max_tokens": 1, "temperature": 0, **more}
        try:
            answer: Mapping[str, Any] = self.server.post("/completions", body)
        except RefusedError as error:
            raise kdtool.UsageError(
                f"the server at {self.url} refuses a document of {len(ids):,} tokens: {error}; start it with a greater "
                "--max-model-len, or use shorter rows"
            ) from None
        self.answered = time.monotonic()
        return answer
