"""Templates of requests: Jinja files of a package."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

Turns = tuple[tuple[str, str], ...]
"""A conversation: (role, content) pairs."""
_MARK = "\n=== user ===\n"


class Templates:
    """The files `NAME.jinja` of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mark = f"\n{secrets.token_hex(16)}\n"
        """Stands for the mark while a template is rendered, so that one in a value is text like any other."""

    @cached_property
    def _digest(self) -> str:
        files = sorted(self._folder.glob("*.jinja"))
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]

    def version(self, name: str) -> str:
        """Return the name of a template with a digest of all templates of the folder."""
        return f"{name}@{self._digest}"

    def render(self, name: str, values: Mapping[str, Any]) -> Turns:
        """Return the turns of a request: the system's before the line `=== user ===` if there is one, and the user's."""
        text = self._environment.get_template(f"{name}.jinja").render(values)
        before, mark, user = text.partition(self._mark)
        return (("system", before.strip()), ("user", user.strip())) if mark else (("user", text.strip()),)

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from jinja2.ext import Extension

        own_mark = self._mark

        class Marks(Extension):
            """Replaces the mark in sources of templates."""

            def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
                return source.replace(_MARK, own_mark)

        # Requests are plain text, not HTML.
        return Environment(loader=FileSystemLoader(self._folder), undefined=StrictUndefined, extensions=[Marks])  # noqa: S701
