"""Settings of the teacher `vllm`."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

import kdtool
import pydantic
from kdtool_teacher_openai import require_url

_NO_EFFECT = kdtool.does_not_affect_results()
DISK = 8 * 2**30
"""Bytes of files under way at each server: fewer requests are sent at once if their states would take more, and
`kdtool teacher serve` starts a server that deletes the oldest ones above it."""


class VLLMConfig(kdtool.Config):
    """Settings of the teacher `vllm`."""

    url: kdtool.ServiceUrl | tuple[kdtool.ServiceUrl, ...] = kdtool.Field(json_schema_extra=_NO_EFFECT)
    """The server's address, such as http://127.0.0.1:8000/v1, or a list of servers that share the work. On this machine
    or at private addresses. With a key, or on another machine, they are given on the command line, or listed in
    KDTOOL_TRUST_URL."""
    model: kdtool.RecipePathOrName = kdtool.Field(min_length=1)
    """The model that is served: a folder or a Hub name. Its tokenizer, final norm and head are read here, not its layers."""
    revision: str | None = None
    """Branch, tag or commit of a Hub name. None: the newest. The run records the commit."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision in which the server computes (`--dtype`); the final norm and the head here have it, too."""
    quantisation: str | None = kdtool.Field(default=None, min_length=1)
    """The server's `--quantization`, such as `fp8`. None: none."""
    lora: str | None = kdtool.Field(default=None, min_length=1)
    """The name under which the server lists a LoRA adapter (`--lora-modules`). None: the model itself."""
    chosen: Literal["states", "server"] = "states"
    """Source of the log-probabilities of tokens that the student chose. `states`: hidden states, as for all other signals.
    `server`: the server's own interface (vLLM 0.32), 4 bytes per token, at temperature 1. Then the only other signal is
    text, and no states, `companion` or `folder` are needed."""
    layers: tuple[Annotated[int, kdtool.Field(ge=0, le=999)], ...] = ()
    """Decoder layers, from 0, whose outputs the server returns, too, for losses on hidden states. Each costs as many bytes
    per token as the final states."""
    companion: kdtool.ServiceUrl | tuple[kdtool.ServiceUrl, ...] | None = kdtool.Field(
        default=None, json_schema_extra=_NO_EFFECT
    )
    """The address of the process that sends the states of each server, in the order of `url`. None: the port after the
    server's, on its machine."""
    folder: kdtool.RecipePath | None = kdtool.Field(default=None, json_schema_extra=_NO_EFFECT)
    """A folder that this machine and all servers share, through which states come instead. None: by `companion`."""
    api: Literal["chat", "completions"] = "chat"
    """For text: `chat` sends a prompt as a user's message, `completions` has it continued."""
    licence: str | None = kdtool.Field(default=None, min_length=1)
    """The model's licence, as model cards name it (`apache-2.0`). None: that of its card, if it is known."""
    key_variable: kdtool.KeyVariable | None = kdtool.Field(default=None, json_schema_extra=_NO_EFFECT)
    """The environment variable with the key of servers and companions, such as VLLM_API_KEY. None: they need no key."""
    concurrency: int = kdtool.Field(default=8, ge=1, le=256, json_schema_extra=_NO_EFFECT)
    """Largest number of requests under way at each server."""
    timeout: float = kdtool.Field(default=120, gt=0, le=86400, json_schema_extra=_NO_EFFECT)
    """Seconds after which a request without an answer goes to another server."""
    patience: float = kdtool.Field(default=600, ge=0, le=86400, json_schema_extra=_NO_EFFECT)
    """Seconds without an answer of any server before the run ends with an error. The same command resumes it."""
    bound: float | None = kdtool.Field(default=None, gt=0, json_schema_extra=_NO_EFFECT)
    """Largest mean divergence (KL, nats per token) between the served and the model's own distribution at the start.
    None: 1e-5 in float32, 1e-3 in float16, 2e-2 in bfloat16."""
    reference: Literal["auto", "weights", "server"] = kdtool.Field(default="auto", json_schema_extra=_NO_EFFECT)
    """The distribution that is compared with: `weights`, computed here by transformers, or `server`, the
    log-probabilities that the server itself returns. `auto`: both, the weights if they are here and fit into memory."""

    @pydantic.field_validator("url", "companion")
    @classmethod
    def _urls(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if value is None:
            return None
        if isinstance(value, str):
            return require_url(value)
        if not value or len(set(value)) < len(value):
            raise ValueError("must name one or more different servers")
        return tuple(map(require_url, value))

    @pydantic.model_validator(mode="after")
    def _each_has_its_states(self) -> VLLMConfig:
        given = [name for name in ("layers", "companion", "folder") if getattr(self, name)]
        if self.chosen == "server" and given:
            raise ValueError(f"chosen: server returns no states, so remove {' and '.join(given)}")
        if self.folder is not None and self.companion is not None:
            raise ValueError("states come either through folder or from companion: give only one of them")
        if len(self.companions) != len(self.urls):
            raise ValueError("companion must have as many addresses as url")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers."""
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def companions(self) -> tuple[str, ...]:
        """The companion of each server."""
        if self.companion is None:
            return tuple(map(companion_of, self.urls))
        return (self.companion,) if isinstance(self.companion, str) else self.companion

    def layer_ids(self, count: int) -> list[int]:
        """Return the layers whose outputs are returned, as vLLM counts them, from 1: those of `layers`, and the last."""
        return sorted({*(layer + 1 for layer in self.layers), count})


def companion_of(url: str) -> str:
    """Return the usual address of a server's companion: the next port."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{(parts.port or 8000) + 1}"
