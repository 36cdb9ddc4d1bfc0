"""Components that do nothing, in place of those in a README's recipe that are not installed. They are never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from kdtool import Component, Config, SignalKind
from kdtool._contract.kinds import FORMS

__all__ = ["BASE", "ON_POLICY", "STAND_INS"]


_OFFERS = frozenset(get_args(SignalKind))
_MOST: Mapping[str, Mapping[str, Any]] = {
    "teacher": {"offers": _OFFERS},
    "cache": {"offers": _OFFERS},
    "packer": {"carries_annotations": True},
    "loss": {"divergence": True},
    "trainer": {"optimizer_settings": ()},
}
"""Attributes with which a stand-in of a kind satisfies the rest of a recipe."""
_LEFT_OUT = {"kdtool_annotate"}
"""Hooks that restrict the rest of a recipe: a packer must carry the labels of a weighting."""


class _AnySettings(Config, extra="allow"):
    """Takes every setting."""


class _OnPolicySettings(_AnySettings):
    """Takes every setting, and has one more."""

    learned: bool = True
    """The setting for on-policy learning, which each trainer names its own way."""


def _stand_in(base: type[Component]) -> type[Component]:
    more = _MOST.get(base.kind, {})
    hooks = dict.fromkeys(
        (name for name in vars(base) if name.startswith("kdtool_") and name not in _LEFT_OUT), _nothing
    )
    return type(base.__name__, (base,), {"__doc__": "Does nothing.", "Config": _AnySettings, **hooks, **more})


def _nothing(self: Component) -> None:
    """Stand in for a hook."""


_CLASSES = {forms[0].__name__: _stand_in(forms[0]) for forms in FORMS.values()}
STAND_INS: Mapping[str, str] = {cls.kind: f"{__name__}:{name}" for name, cls in _CLASSES.items()}
"""The value of `use` for a component of each kind that does nothing; it offers and carries everything."""

_CLASSES["OnPolicy"] = type("OnPolicy", (_CLASSES["Trainer"],), {"on_policy": "learned", "Config": _OnPolicySettings})
ON_POLICY = f"{__name__}:OnPolicy"
"""The same for a trainer that learns on-policy."""

BASE: Mapping[str, Any] = {
    "name": "example",
    "corpus": {"use": STAND_INS["corpus"]},
    "rows": {"use": STAND_INS["packer"]},
    "teacher": {"use": STAND_INS["teacher"]},
    "student": {"use": STAND_INS["student"]},
    "trainer": {"use": STAND_INS["trainer"]},
    "train": {"losses": {"stand-in": {"use": STAND_INS["loss"]}}, "steps": 1},
}
"""A recipe of them, below the part of a recipe that a README shows."""


def __getattr__(name: str) -> Any:
    try:
        return _CLASSES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
