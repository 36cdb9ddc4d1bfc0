"""Templates of requests: sandboxed Jinja files with declared variables, of a package or next to the recipe."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from jinja2 import Environment

Turns = tuple[tuple[str, str], ...]
"""A conversation: (role, content) pairs."""
_MARK = "\n=== user ===\n"


@dataclass(frozen=True)
class Template:
    """A template by name; its version is a digest of its text and of the templates that it extends or includes."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Templates:
    """The templates of a recipe: files `NAME.jinja`.

    Args:
        shipped: folder of the package's templates.
        files: the recipe's files by name; they may extend shipped files and files in their folder. They take precedence.
        declared: variables of all templates.
        further: more variables of single templates, by name.
        key: prefix of the setting that holds a template's file, for messages.
    """

    def __init__(
        self,
        shipped: Path,
        files: Mapping[str, Path],
        declared: Collection[str],
        *,
        further: Mapping[str, Collection[str]] | None = None,
        key: str = "templates.",
    ) -> None:
        self._shipped = shipped
        self._files = files
        self._declared = frozenset(declared)
        self._further = further or {}
        self._key = key
        self._mark = f"\n{secrets.token_hex(16)}\n"
        """Stands for the mark while a template is rendered, so that one in a value is text like any other."""

    def find(self, name: str) -> Template:
        """Return a template.

        Raises:
            UsageError: it cannot be read, is not a template, or uses a variable that is not declared.
        """
        from jinja2 import meta

        digest = hashlib.sha256()
        declared = self._declared.union(self._further.get(name, ()))
        for file, source in self._sources(name):
            digest.update(source.encode())
            unknown = meta.find_undeclared_variables(self._environment.parse(source, filename=file)) - declared
            if unknown:
                raise kdtool.UsageError(
                    f"{self._key}{name}: {file} uses the undeclared variables {', '.join(sorted(unknown))}; declare them in "
                    f"`variables`, or use one of {', '.join(sorted(declared))}"
                )
        return Template(name, digest.hexdigest()[:12])

    def render(self, name: str, values: Mapping[str, Any]) -> Turns:
        """Return the turns of a request: that of the system before the line `=== user ===` if there is one, and the user's.

        Raises:
            UsageError: the template fails on these values, or renders nothing.
        """
        from jinja2 import TemplateError

        try:
            text = self._environment.get_template(f"{name}.jinja").render(values)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise kdtool.UsageError(f"{self._key}{name} cannot be rendered: {error}; repair the template") from error
        before, mark, user = text.partition(self._mark)
        turns = (("system", before.strip()), ("user", user.strip())) if mark else (("user", text.strip()),)
        if not turns[-1][1]:
            raise kdtool.UsageError(
                f"{self._key}{name} renders an empty request; write text after `{_MARK.strip()}`, or leave that line out"
            )
        return turns

    @cached_property
    def _environment(self) -> Environment:
        from jinja2 import ChoiceLoader, FileSystemLoader, FunctionLoader, StrictUndefined
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        own_mark = self._mark

        class Marks(Extension):
            """Replaces the mark in sources of templates."""

            def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
                return source.replace(_MARK, own_mark)

        folders = dict.fromkeys(str(path.parent) for path in self._files.values())
        loaders = [FunctionLoader(self._read_own), FileSystemLoader([*folders, str(self._shipped)])]
        return ImmutableSandboxedEnvironment(
            loader=ChoiceLoader(loaders), undefined=StrictUndefined, extensions=[Marks]
        )

    def _read_own(self, file: str) -> str | None:
        path = self._files.get(file.removesuffix(".jinja"))
        return None if path is None else path.read_text(encoding="utf-8")

    def _sources(self, name: str) -> Iterator[tuple[str, str]]:
        """Yield a template and those that it refers to, each with its text."""
        from jinja2 import TemplateError, meta

        waiting, seen = [f"{name}.jinja"], set[str]()
        while waiting:
            file = waiting.pop(0)
            if file in seen:
                continue
            seen.add(file)
            try:
                source, *_ = self._environment.loader.get_source(self._environment, file)  # type: ignore[union-attr]
                referred = list(meta.find_referenced_templates(self._environment.parse(source)))
            except (TemplateError, OSError, UnicodeDecodeError) as error:
                raise kdtool.UsageError(
                    f"{self._key}{name}: {file} cannot be read as a Jinja template: {error}; repair it, or name another file"
                ) from error
            if None in referred:
                raise kdtool.UsageError(
                    f"{self._key}{name}: {file} computes the name of a template; write the name itself"
                )
            yield file, source
            waiting += [other for other in referred if other is not None]
