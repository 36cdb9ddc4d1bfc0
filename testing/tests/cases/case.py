"""Holds components to a suite: many like one that is sound, most of them with a fault that some tests must see."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import kdtool
from kdtool import Component


class Located(kdtool.Config):
    """Settings that only `prepare` can give."""

    file: kdtool.RecipePath
    """A file."""


def prepare(self: Any, folder: Path) -> dict[str, str]:
    """Write a file, and refuse to do so twice; build a module of torch where there is one."""
    if torch := sys.modules.get("torch"):
        torch.nn.Linear(1, 1)
    (folder / "file").touch(exist_ok=False)
    return {"file": str(folder / "file")}


def variant(sound: type, description: str, *fails: str, also: Any = None, **members: Any) -> None:
    """Put a test class like `sound` next to it, on a component with other `members`.

    `fails` names the tests that must fail, all others must pass; `also` has further attributes of the test class.
    """
    base, home = vars(sound)["component"], sound.__module__
    name = "".join(word.capitalize() for word in re.findall(r"\w+", description))
    component = type(name, (base,), {"__doc__": description, "__module__": home, **members})
    attributes = {"component": component, "fails": frozenset(fails), "__module__": home, **(also or {})}
    vars(sys.modules[home]).update({name: component, f"Test{name}": type(f"Test{name}", (sound,), attributes)})


def faults(cls: type) -> frozenset[str]:
    """Return the tests that must fail for a test class."""
    return frozenset(getattr(cls, "fails", ()))


def subject(suite: type, component: type[Component], **attributes: Any) -> Any:
    """Return an instance of a test class of `suite`, whose tests can be called."""
    return type(
        "Subject", (suite,), {"component": component, "entry_point": "x", "__module__": __name__, **attributes}
    )()
