"""Settings of the teacher `claude`, and the thinking and effort that each model takes.

The table of models has facts of November 2026. A model that is not in it gets the settings as they are, and the service
decides.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit

import kdtool
import pydantic

_FREE = kdtool.does_not_affect_results()

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Thinking = Literal["off", "adaptive"]


class ClaudeConfig(kdtool.Config):
    """Settings of the teacher `claude`."""

    model: str = kdtool.Field(min_length=1, max_length=200)
    """The model, such as claude-haiku-5-5, claude-sonnet-5-5, claude-opus-5-5 or claude-fable-5-1."""
    budget_usd: Decimal = kdtool.Field(gt=0, le=1_000_000, json_schema_extra=_FREE)
    """Dollars that the ledger may reach at most. No request is sent that could exceed them."""
    thinking: Thinking | None = None
    """Thinking before the answer: `off`, `adaptive` (the model decides), or null for the model's default. Models from
    Sonnet 5 on think unless it is `off`. Thinking is charged as output, and counts towards `max_tokens`."""
    thinking_tokens: int = kdtool.Field(default=0, ge=0, le=100_000)
    """Tokens that a request's `max_tokens` grows by if the model thinks, as room for it."""
    effort: Effort | None = None
    """Effort of thinking and answer; null is the model's default: medium for Opus 5.5 and Haiku 5.5, high for others."""
    system: str = ""
    """Text that comes before every request, such as instructions with examples. It is cached if it is long enough."""
    mode: Literal["messages", "batches"] = kdtool.Field(default="messages", json_schema_extra=_FREE)
    """`messages` answers at once; `batches` costs half and takes up to a day."""
    on_unknown: Literal["ask_again", "skip"] = kdtool.Field(default="ask_again", json_schema_extra=_FREE)
    """Handling of a request that was sent and perhaps charged, but not answered: ask again, within the budget, or leave it
    out, so that nothing is ever paid twice."""
    ledger: kdtool.RecipePath | None = kdtool.Field(default=None, json_schema_extra=_FREE)
    """The file with paid answers and money. None: `answers.sqlite` in the folder that runs share."""
    key_variable: kdtool.KeyVariable = kdtool.Field(default="ANTHROPIC_API_KEY", json_schema_extra=_FREE)
    """The environment variable with the key; its name ends in `_API_KEY`."""
    keyring: str | None = kdtool.Field(default=None, min_length=1, json_schema_extra=_FREE)
    """Service in the system's keyring whose entry `anthropic` is the key, used if the variable is not set."""
    url: kdtool.ServiceUrl = kdtool.Field(default="https://api.anthropic.com", json_schema_extra=_FREE)
    """The address of the API. Another than this one is given on the command line, or listed in KDTOOL_TRUST_URL."""
    concurrency: int = kdtool.Field(default=64, ge=1, le=1024, json_schema_extra=_FREE)
    """Largest number of requests at the same time; fewer are sent if the service limits them."""
    timeout: float = kdtool.Field(default=600, gt=0, le=86400, json_schema_extra=_FREE)
    """Seconds without a part of an answer after which a request counts as unanswered."""
    retries: int = kdtool.Field(default=8, ge=0, le=100, json_schema_extra=_FREE)
    """Number of times that a request without an answer is sent again."""

    @pydantic.model_validator(mode="after")
    def _is_taken(self) -> ClaudeConfig:
        if refusal := refusal_of(self.model, self.thinking, self.effort):
            raise ValueError(refusal)
        return self

    @pydantic.field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment or not parts.hostname:
            raise ValueError(
                "must be only an address, such as https://api.anthropic.com; give the key by `key_variable`"
            )
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(url)):
            raise ValueError("must begin with https, which keeps the key secret in transit")
        return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine."""
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "").is_loopback
    except ValueError:
        return False


def read_key(config: ClaudeConfig) -> tuple[str, str]:
    """Return the key, and where it was found.

    Raises:
        AuthenticationError: the key is neither in the environment nor in the keyring, or no header can contain it.
    """
    key, source = os.environ.get(config.key_variable, "").strip(), config.key_variable
    if not key and config.keyring is not None:
        import keyring

        try:
            key = (keyring.get_password(config.keyring, "anthropic") or "").strip()
            source = f"keyring {config.keyring!r}"
        except keyring.errors.KeyringError as error:
            raise kdtool.AuthenticationError(
                f"keyring: the key cannot be read ({error}); set {config.key_variable}"
            ) from None
    if not key:
        other = " or name a service of the keyring by `keyring`" if config.keyring is None else ""
        raise kdtool.AuthenticationError(
            f"key_variable: {config.key_variable} is not set; export it with the key{other}"
        )
    if not (key.isascii() and key.isprintable()):
        raise kdtool.AuthenticationError(
            f"the key in {source} has characters that no key has, such as a line break; copy it again"
        )
    return key, source


_ALL_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_EFFORTS_WITHOUT_THINKING = ("low", "medium", "high")


@dataclass(frozen=True)
class _Model:
    """Abilities of a model.

    `thinks` is its default; `off` is the type that switches it off, "" if none does. `efforts` are those that it takes,
    and `efforts_off` those without thinking. It caches a prefix from `cached_from` tokens on.
    """

    thinks: bool = False
    adaptive: bool = True
    off: str = "disabled"
    efforts: tuple[str, ...] = _ALL_EFFORTS
    efforts_off: tuple[str, ...] = _ALL_EFFORTS
    cached_from: int = 1024


_ALWAYS = _Model(thinks=True, off="", cached_from=512)
_MODELS = {
    "fable-5": _ALWAYS,
    "mythos-5": _ALWAYS,
    "opus-5-5": _ALWAYS,
    "sonnet-5-5": _Model(thinks=True, off="between_tools", efforts_off=_EFFORTS_WITHOUT_THINKING, cached_from=512),
    "haiku-5-5": _Model(thinks=True, efforts_off=_EFFORTS_WITHOUT_THINKING, cached_from=512),
    "opus-5": _Model(thinks=True, efforts_off=_EFFORTS_WITHOUT_THINKING, cached_from=512),
    "sonnet-5": _Model(thinks=True),
    "opus-4-8": _Model(),
    "opus-4-7": _Model(cached_from=2048),
    "opus-4-6": _Model(efforts=("low", "medium", "high", "max"), cached_from=4096),
    "sonnet-4-6": _Model(efforts=("low", "medium", "high", "max")),
    "opus-4-5": _Model(adaptive=False, efforts=_EFFORTS_WITHOUT_THINKING, cached_from=4096),
    "haiku-4-5": _Model(adaptive=False, efforts=(), cached_from=4096),
    **dict.fromkeys(
        ("sonnet-4-5", "opus-4-1", "opus-4-0", "sonnet-4-0", "claude-3"), _Model(adaptive=False, efforts=())
    ),
}
"""By a part of the name; the first that fits counts."""


def refusal_of(model: str, thinking: Thinking | None, effort: Effort | None) -> str:
    """Return the reason why a model does not take these settings, and what to do; "" if it takes them."""
    known = _find_model(model)
    if known is None:
        return ""
    if thinking == "off" and not known.off:
        return f"thinking: {model} always thinks and does not take `off`; set effort: low, or choose another model"
    if thinking == "adaptive" and not known.adaptive:
        return f"thinking: {model} does not take `adaptive`; leave it out, or choose a model from 4.6 on"
    if effort is not None and not known.efforts:
        return f"effort: {model} does not take it; leave it out, or choose a model from 4.6 on"
    without = thinking == "off"
    taken = [name for name in known.efforts if not without or name in known.efforts_off]
    if effort is not None and effort not in taken:
        where = " with thinking: off" if without else ""
        return f"effort: {model}{where} does not take {effort!r}, only {', '.join(taken)}; choose one of them"
    return ""


def fields_of(model: str, thinking: Thinking | None, effort: Effort | None) -> dict[str, Any]:
    """Return the fields of a request's body; none where the model's defaults are asked for."""
    known, fields = _find_model(model) or _Model(thinks=True), dict[str, Any]()
    if thinking == "adaptive":
        fields["thinking"] = {"type": "adaptive"}
    elif thinking == "off" and known.thinks:
        fields["thinking"] = {"type": known.off}
    if effort is not None:
        fields["output_config"] = {"effort": effort}
    return fields


def thinks(model: str, thinking: Thinking | None) -> bool:
    """Return whether the model may think before it answers."""
    known = _find_model(model)
    return thinking == "adaptive" or (thinking is None and known is not None and known.thinks)


def cache_minimum(model: str) -> int:
    """Return the tokens from which a model caches a prefix; a shorter one is silently not cached."""
    return (_find_model(model) or _Model()).cached_from


def _find_model(model: str) -> _Model | None:
    return next((known for name, known in _MODELS.items() if name in model), None)
