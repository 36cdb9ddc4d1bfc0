"""Types of settings that name a service and its key, so that a recipe cannot send a key elsewhere by itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = ["KEY_VARIABLE", "SERVICE_URL", "KeyVariable", "ServiceUrl"]

SERVICE_URL = "kdtool: URL of a service"
"""Marks a field in `Annotated`."""
KEY_VARIABLE = "kdtool: environment variable with a key"
"""Marks a field in `Annotated`."""

ServiceUrl = Annotated[str, SERVICE_URL]
"""A `Config` field for the address of a service. The field's default is the service's own address. A recipe may name another
one only on the command line (`--set`) or if its origin is listed in KDTOOL_TRUST_URL; a server on this machine needs neither
if the config names no `KeyVariable`. Checked with the recipe, not where a config is made by code. Since 0.1."""
KeyVariable = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+_API_KEY$"), KEY_VARIABLE]
"""A `Config` field for the environment variable that holds a service's key. Its name ends in `_API_KEY`, so that a recipe
cannot send other secrets. Use it together with `ServiceUrl`. Since 0.1."""
