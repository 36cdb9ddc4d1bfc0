"""Settings of the teacher `openai`, and the addresses that may be asked.

Servers on this machine, or at a private address of the network it is in, may be asked. Requests to paid endpoints cost
money that nothing counts yet, and a killed run could pay twice; so none is sent.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Literal
from urllib.parse import urlsplit

import kdtool
import pydantic


class OpenAIConfig(kdtool.Config):
    """Settings of the teacher `openai`."""

    url: kdtool.ServiceUrl = kdtool.Field(json_schema_extra=kdtool.does_not_affect_results())
    """The server's address, such as http://127.0.0.1:8000/v1; on this machine or at a private address. With a key, or on
    another machine, it is given on the command line, or listed in KDTOOL_TRUST_URL."""
    model: str = kdtool.Field(min_length=1)
    """The model's name as the server lists it. It stands for the weights: other weights need another name."""
    api: Literal["chat", "completions"] = "chat"
    """`chat`: a prompt is a user's message, formatted by the server's chat template. `completions`: it is continued."""
    tokenizer: kdtool.RecipePathOrName | None = kdtool.Field(default=None, min_length=1)
    """The tokenizer of the server's model: a folder, a hub name, or a .gguf file. None: unknown, it gives only text."""
    top_k: int | None = kdtool.Field(default=None, ge=1, le=1000)
    """Number of likeliest tokens to ask for at each position, for losses on distributions. None: only text."""
    licence: str | None = kdtool.Field(default=None, min_length=1)
    """The licence of the server's model, as model cards name it (`apache-2.0`, `llama3.2`). None: that of the publisher,
    if `model` is a Hub name whose card gives it."""
    key_variable: kdtool.KeyVariable | None = kdtool.Field(
        default=None, json_schema_extra=kdtool.does_not_affect_results()
    )
    """The environment variable with the server's key; its name ends in `_API_KEY`. None: the server needs no key."""
    concurrency: int = kdtool.Field(default=8, ge=1, le=256, json_schema_extra=kdtool.does_not_affect_results())
    """Largest number of requests at the same time."""
    timeout: float = kdtool.Field(default=600, gt=0, le=86400, json_schema_extra=kdtool.does_not_affect_results())
    """Seconds without a part of an answer before a request is given up and sent again."""
    retries: int = kdtool.Field(default=5, ge=0, le=100, json_schema_extra=kdtool.does_not_affect_results())
    """Number of times that a request without an answer is sent again."""

    @pydantic.field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        return require_url(url)

    @pydantic.model_validator(mode="after")
    def _tokens_are_known(self) -> OpenAIConfig:
        if self.top_k is not None and self.tokenizer is None:
            raise ValueError("top_k needs `tokenizer`, which defines the token ids: give both, or neither")
        return self


_REASON = (
    "only servers on this machine or at private addresses are asked: hosted ones cost money, and nothing counts that yet "
    "or keeps a killed run from paying twice"
)
_HOSTED = (
    "ai21.com", "anthropic.com", "anyscale.com", "cerebras.ai", "cohere.ai", "cohere.com", "deepinfra.com", "deepseek.com",
    "fireworks.ai", "googleapis.com", "groq.com", "huggingface.cloud", "huggingface.co", "hyperbolic.xyz", "mistral.ai",
    "moonshot.ai", "moonshot.cn", "novita.ai", "openai.azure.com", "openai.com", "openrouter.ai", "perplexity.ai",
    "sambanova.ai", "together.ai", "together.xyz", "x.ai", "z.ai",
)  # fmt: skip
"""Domains of hosted services. Other names may be machines of a private network, which only the resolver knows."""
_SHARED = ipaddress.ip_network("100.64.0.0/10")
"""Not routed on the internet either (RFC 6598); virtual private networks such as Tailscale give these to their machines."""


def require_url(url: str) -> str:
    """Return a server's address without its last slash.

    Raises:
        ValueError: not an http address, it carries a key, it names a hosted service, or it is a number that lies outside
            of private networks. No name is resolved.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "must be only an address: put a key into an environment variable, and name that by `key_variable`"
        )
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        if any(f".{parts.hostname}".endswith(f".{domain}") for domain in _HOSTED):
            raise ValueError(f"{parts.hostname} is a hosted service; {_REASON}") from None
        return url.rstrip("/")
    if not _is_private(address):
        raise ValueError(f"{parts.hostname} is a public address; {_REASON}")
    return url.rstrip("/")


def local_addresses(url: str, *, offline: bool) -> None:
    """Refuse a server whose name resolves to a public address or, offline, to any other machine.

    Raises:
        UsageError: the address is public.
        ServiceError: the name does not resolve, or the run is offline and the server is another machine.
    """
    host = urlsplit(url).hostname or ""
    try:
        texts = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise kdtool.ServiceError(
            f"url: no machine is named {host!r} here ({error.strerror}); give the name of a server on this machine or in "
            "your network, since hosted services are not asked"
        ) from None
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in sorted(texts)]
    for address in addresses:
        if not _is_private(address):
            raise kdtool.UsageError(f"url: {host} is {address}, a public address; {_REASON}")
        if offline and not address.is_loopback:
            raise kdtool.ServiceError(
                f"url: the run is offline, and {host} is another machine; give a server on this one"
            )


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (address.is_private or address.is_loopback or address in _SHARED) and not address.is_unspecified
