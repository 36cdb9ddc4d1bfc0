"""A vLLM server that writes on-policy text with the student's weights, which it loads again from a folder.

Only stock interfaces are used: completions of token ids, and `/collective_rpc` of servers with VLLM_SERVER_DEV_MODE=1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import kdtool
from kdtool_teacher_openai import OpenAI
from kdtool_teacher_openai.client import RefusedError, Server, choice_of

NAME = "student"
"""The name under which the server lists the model."""
_SECONDS_BETWEEN_TRIES = 1.0
_CONCURRENCY = 64
"""Texts requested at the same time."""


class RolloutServer:
    """A connection to one server.

    Args:
        url: its address, which ends in /v1.
        key_variable: the environment variable with its key, or None.
        offline: refuse other machines.

    `salt` stands for the weights: cached prefixes of others are not used.
    """

    def __init__(self, url: str, key_variable: str | None, *, offline: bool) -> None:
        self._config = OpenAI.Config(url=url, model=NAME, key_variable=key_variable)
        self._server = Server(self._config, offline=offline)
        self._first = Server(self._config.model_copy(update={"retries": 0}), offline=offline)
        self.salt = ""

    def wait_until_ready(self, seconds: float, remedy: str, say: Callable[[str], None]) -> None:
        """Wait for the server to answer, and show `remedy` if it does not at once.

        Raises:
            ServiceError: it did not answer within `seconds`.
        """
        end, shown = time.monotonic() + seconds, False
        while True:
            try:
                self._first.get("/models")
            except kdtool.ServiceError:
                if not shown:
                    say(f"on_policy: waiting {seconds:g} s for the server at {self._config.url}; {remedy}")
                shown = True
                if time.monotonic() > end:
                    raise
                time.sleep(_SECONDS_BETWEEN_TRIES)
            else:
                return

    def load_weights(self, folder: Path) -> None:
        """Have the server read the weights in a folder.

        Raises:
            UsageError: it does not allow this, or cannot read them.
            ServiceError: it does not answer.
        """
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        try:
            self._server.post(f"{self._config.url.removesuffix('/v1')}/collective_rpc", body)
        except (RefusedError, kdtool.UsageError) as error:
            raise kdtool.UsageError(
                f"the server at {self._config.url} does not load the weights in {folder} ({error}); start it with "
                "VLLM_SERVER_DEV_MODE=1, on a machine that sees this folder"
            ) from None

    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token but the first, in nats. Raises as `generate`."""
        body = self._body(ids, {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0})
        try:
            answer = self._server.post("/completions", body)
        except RefusedError as error:
            raise self._explain_refusal(ids, error) from None
        return prompt_log_probabilities(answer, ids, self._config.url)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        temperature: float,
        top_p: float,
        seeds: Sequence[int],
        ends: Sequence[int],
    ) -> list[list[int]]:
        """Continue prompts as `kdtool.LanguageModel.generate` does; a text ends with one of the tokens `ends`.

        Raises:
            UsageError: the server refuses a request, or does not return token ids.
            ServiceError: it does not answer.
        """

        async def write(number: int) -> list[int]:
            body = {
                "max_tokens": limits[number],
                "temperature": temperature,
                "top_p": top_p,
                "seed": seeds[number],
                "stop_token_ids": list(ends),
                "return_token_ids": True,
                # Else a generation_config.json of the model's folder decides.
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
            }
            try:
                answer = await self._server.sent("/completions", self._body(prompts[number], body))
            except RefusedError as error:
                raise self._explain_refusal(prompts[number], error) from None
            ids = choice_of(answer).get("token_ids")
            if not isinstance(ids, list) or not ids:
                raise kdtool.UsageError(
                    f"the server at {self._config.url} returns no token_ids; on-policy text needs vLLM 0.11 or newer"
                )
            return [int(token) for token in ids]

        texts = dict(self._server.at_once(range(len(prompts)), write, _CONCURRENCY))
        return [texts[number] for number in range(len(prompts))]

    def close(self) -> None:
        """Close the connections."""
        self._server.close()
        self._first.close()

    def _body(self, ids: Sequence[int], more: Mapping[str, Any]) -> dict[str, Any]:
        salt = {"cache_salt": self.salt} if self.salt else {}
        return {"model": NAME, "prompt": list(ids), **salt, **more}

    def _explain_refusal(self, ids: Sequence[int], error: RefusedError) -> kdtool.UsageError:
        return kdtool.UsageError(
            f"the server at {self._config.url} refuses a prompt of {len(ids):,} tokens: {error}; start it as the run shows, "
            "with a greater --max-model-len for longer rows"
        )


def prompt_log_probabilities(answer: Mapping[str, Any], ids: Sequence[int], url: str) -> list[float]:
    """Return the log-probability of each token of a prompt but the first, by the answer of the server at `url`.

    Raises:
        UsageError: the answer has none.
    """
    listed = choice_of(answer).get("prompt_logprobs")
    if not isinstance(listed, list) or len(listed) != len(ids):
        raise kdtool.UsageError(f"the server at {url} returns no prompt_logprobs; give the address of a vLLM server")
    return [float(entry[str(token)]["logprob"]) for entry, token in zip(listed[1:], ids[1:], strict=True)]
