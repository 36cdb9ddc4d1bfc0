"""Thinking and effort: the fields of a request for them, and refusals of settings that a model does not take.

Facts of November 2026. A model that is not in the table gets the settings as they are, and the service decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Effort", "Thinking", "cache_minimum", "fields_of", "refusal_of", "thinks"]

Effort = Literal["low", "medium", "high", "xhigh", "max"]
Thinking = Literal["off", "adaptive"]

_ALL = ("low", "medium", "high", "xhigh", "max")
_WITHOUT_THINKING = ("low", "medium", "high")


@dataclass(frozen=True)
class _Model:
    """Abilities of a model.

    `thinks` is its default; `off` is the type that switches it off, "" if none does. `efforts` are those that it takes,
    and `efforts_off` those without thinking. It caches a prefix from `cached_from` tokens on.
    """

    thinks: bool = False
    adaptive: bool = True
    off: str = "disabled"
    efforts: tuple[str, ...] = _ALL
    efforts_off: tuple[str, ...] = _ALL
    cached_from: int = 1024


_ALWAYS = _Model(thinks=True, off="", cached_from=512)
_MODELS = {
    "fable-5": _ALWAYS,
    "mythos-5": _ALWAYS,
    "opus-5-5": _ALWAYS,
    "sonnet-5-5": _Model(thinks=True, off="between_tools", efforts_off=_WITHOUT_THINKING, cached_from=512),
    "haiku-5-5": _Model(thinks=True, efforts_off=_WITHOUT_THINKING, cached_from=512),
    "opus-5": _Model(thinks=True, efforts_off=_WITHOUT_THINKING, cached_from=512),
    "sonnet-5": _Model(thinks=True),
    "opus-4-8": _Model(),
    "opus-4-7": _Model(cached_from=2048),
    "opus-4-6": _Model(efforts=("low", "medium", "high", "max"), cached_from=4096),
    "sonnet-4-6": _Model(efforts=("low", "medium", "high", "max")),
    "opus-4-5": _Model(adaptive=False, efforts=_WITHOUT_THINKING, cached_from=4096),
    "haiku-4-5": _Model(adaptive=False, efforts=(), cached_from=4096),
    **dict.fromkeys(
        ("sonnet-4-5", "opus-4-1", "opus-4-0", "sonnet-4-0", "claude-3"), _Model(adaptive=False, efforts=())
    ),
}
"""By a part of the name; the first that fits counts."""


def refusal_of(model: str, thinking: Thinking | None, effort: Effort | None) -> str:
    """Return the reason why a model does not take these settings, and what to do; "" if it takes them."""
    known = _find(model)
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
    known, fields = _find(model) or _Model(thinks=True), dict[str, Any]()
    if thinking == "adaptive":
        fields["thinking"] = {"type": "adaptive"}
    elif thinking == "off" and known.thinks:
        fields["thinking"] = {"type": known.off}
    if effort is not None:
        fields["output_config"] = {"effort": effort}
    return fields


def thinks(model: str, thinking: Thinking | None) -> bool:
    """Return whether the model may think before it answers."""
    known = _find(model)
    return thinking == "adaptive" or (thinking is None and known is not None and known.thinks)


def cache_minimum(model: str) -> int:
    """Return the tokens from which a model caches a prefix; a shorter one is silently not cached."""
    return (_find(model) or _Model()).cached_from


def _find(model: str) -> _Model | None:
    return next((known for name, known in _MODELS.items() if name in model), None)
