"""One server: the hidden states of all tokens of a prompt, or log-probabilities of tokens that the student chose.

States are files, in a folder that is shared with the server, or from its companion. Log-probabilities come by the server's
own interface, so that no states leave it: a request scores the ids of each position of one document
(`prompt_logprob_token_ids`, vLLM 0.32).
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NamedTuple

import httpx
import kdtool
import numpy as np
import torch
from kdtool_teacher_openai import OpenAI, local_addresses
from kdtool_teacher_openai.client import RefusedError, Server, documents_of
from safetensors.torch import load
from torch import Tensor

from kdtool_teacher_vllm.rollouts import prompt_log_probabilities


class Station:
    """A server, which runs `KdtoolStates` if it has a `source` of states. Threads may share it.

    `checked` is true once the server was found to serve the right model; `lock` is for the thread that finds out.
    `settings` are those of its connection; `tokens` and `bytes` count what it returned, and `answered` is the time of its
    last answer, by `time.monotonic`.
    """

    def __init__(self, config: OpenAI.Config, source: Source | None, model: str | None, *, offline: bool) -> None:
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
        return torch.tensor(prompt_log_probabilities(answer, ids, self.url))

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
            file = io.BytesIO(base64.b64decode(answer["prompt_token_id_logprobs"]))
            scores = torch.from_numpy(np.load(file, allow_pickle=False)).float()
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
        """Return the tensors of a file that the server named, nothing without a `source`. Raises as `ask`."""
        return {} if self.source is None else self.source.take(PurePosixPath(path).name)

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


_DESCRIPTION = "server.json"


class LostError(Exception):
    """States are not available now; the same prompt can be sent again, here or to another server."""


class Folder:
    """A folder that this machine and the server share."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self._folder = folder
        self._timeout = timeout

    def describe(self) -> Mapping[str, Any]:
        """Return the facts of the server. Raises as `take`."""
        try:
            return _read_facts((self._folder / _DESCRIPTION).read_bytes())
        except OSError as error:
            raise LostError(f"{self._folder / _DESCRIPTION} cannot be read ({error.strerror})") from None

    def take(self, name: str) -> Mapping[str, Tensor]:
        """Return the tensors of a file, which is deleted. Raises LostError if it is missing or incomplete."""
        from kdtool_teacher_vllm.server.kdtool_companion import wait_until_written  # needs flock, as vLLM does

        path = self._folder / name
        wait_until_written(path, self._timeout)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise LostError(f"{path} cannot be read ({error.strerror})") from None
        for file in (path, Path(f"{path}.lock")):
            file.unlink(missing_ok=True)
        return _read_tensors(content)

    def close(self) -> None:
        """Keep nothing open."""


class Companion:
    """The process that sends the files of a server on another machine."""

    def __init__(self, url: str, key: str, timeout: float, *, offline: bool) -> None:
        local_addresses(url, offline=offline)
        self._url = url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False, trust_env=False)

    def describe(self) -> Mapping[str, Any]:
        """Return the facts of the server. Raises as `take`."""
        return _read_facts(self._get("/server"))

    def take(self, name: str) -> Mapping[str, Tensor]:
        """Return the tensors of a file, which the companion deletes.

        Raises:
            LostError: the companion does not answer, or the file is missing or incomplete.
            AuthenticationError: the key is refused.
        """
        return _read_tensors(self._get(f"/states/{name}"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _get(self, path: str) -> bytes:
        try:
            answer = self._client.get(self._url + path)
        except httpx.HTTPError as error:
            raise LostError(f"the companion at {self._url} does not answer ({error})") from None
        if answer.status_code in {401, 403}:
            raise kdtool.AuthenticationError(
                f"the companion at {self._url} refuses the key: set `key_variable` to the variable that holds it"
            )
        if answer.status_code != 200:
            raise LostError(f"the companion at {self._url} has no {path} ({answer.status_code})")
        return answer.content


Source = Folder | Companion


def _read_facts(content: bytes) -> Mapping[str, Any]:
    try:
        facts = json.loads(content)
    except ValueError:
        raise LostError(f"{_DESCRIPTION} is not JSON") from None
    return facts if isinstance(facts, Mapping) else {}


def _read_tensors(content: bytes) -> Mapping[str, Tensor]:
    try:
        return load(content)
    except Exception as error:  # safetensors' own class, without a public base, of a file that was cut
        raise LostError(f"the file of states is incomplete ({error})") from None


class Question(NamedTuple):
    """Token ids of a document, the first position that is scored, and the ids to score from there on, at each position.

    `rows` has an entry for each position from `start` to the last but one: `rows[i]` may follow the token at `start + i`.
    """

    ids: Sequence[int]
    start: int
    rows: Sequence[Sequence[int]]


def questions(batch: kdtool.Batch, ids: Tensor) -> list[Question]:
    """Return a question for each document with labels; `ids` [labels, K] are the tokens to score, -1 pads."""
    chosen, found = ids.tolist(), []
    for piece in documents_of(batch):
        first, last = piece.places[0], piece.places[-1]
        by_place = dict(zip(piece.places, piece.targets, strict=True))
        rows = [chosen[by_place[at]] if at in by_place else [] for at in range(first, last + 1)]
        # The last token of a prompt is not scored, so one follows; which one makes no difference.
        found.append(Question((piece.tokens + piece.tokens[-1:])[: last + 2], first, rows))
    return found


def join_scores(asked: Sequence[Question], answers: Sequence[Tensor], ids: Tensor) -> Tensor:
    """Return the answers [rows, K] to all questions of a batch as log-probabilities of `ids`, 0 at padding."""
    pairs = zip(asked, answers, strict=True)  # documents come in the order of the labels
    kept = [answer[[bool(row) for row in question.rows]] for question, answer in pairs]
    scores = torch.cat([torch.zeros(0, ids.shape[1]), *kept]).to(ids.device)
    return scores.clamp(max=0).masked_fill(ids < 0, 0)
