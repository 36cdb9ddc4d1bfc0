"""Templates of requests: sandboxed Jinja files with declared variables, of this package or beside the recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["VARIABLES", "Template", "Templates", "Turns"]

Turns = tuple[tuple[str, str], ...]
_SHIPPED = Path(__file__).with_name("templates")
_MARK = "=== user ==="
VARIABLES = frozenset(
    {
        "difficulty", "difficulty_means", "evolution", "examples", "fence", "language", "language_name", "number", "seed",
        "setting", "style", "task", "test_form", "tested", "topic",
    }
)  # fmt: skip
"""Variables that every template may use; `error` besides in `_repair.jinja`."""


@dataclass(frozen=True)
class Template:
    """A template by name; its version is a digest of its text and of what it extends or includes."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Templates:
    """The templates of a recipe.

    Args:
        own: files by the names of tasks; they may extend `_base.jinja` and files beside them. They take precedence.
        declared: the recipe's own variables.
    """

    def __init__(self, own: Mapping[str, Path], declared: Sequence[str]) -> None:
        self._own = own
        self._declared = VARIABLES | set(declared)
        self._made: Environment | None = None

    def find(self, name: str) -> Template:
        """Return the template of a task, or `_repair`.

        Raises:
            UsageError: it cannot be read, is not a template, or uses a variable that is not declared.
        """
        digest = hashlib.sha256()
        declared = self._declared | ({"error"} if name == "_repair" else set())
        for file, source in self._sources(f"{name}.jinja"):
            digest.update(source.encode())
            if unknown := self._find_undeclared(file, source) - declared:
                raise kdtool.UsageError(
                    f"templates.{name}: {file} uses the undeclared variables {', '.join(sorted(unknown))}; declare them in "
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
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise kdtool.UsageError(f"templates.{name} cannot be rendered: {error}; repair the template") from error
        before, mark, user = text.partition(f"\n{_MARK}\n")
        turns = (("system", before.strip()), ("user", user.strip())) if mark else (("user", text.strip()),)
        if not turns[-1][1]:
            raise kdtool.UsageError(f"templates.{name} renders an empty request; write text behind `{_MARK}`")
        return turns

    @property
    def _environment(self) -> Environment:
        if self._made is None:
            from jinja2 import ChoiceLoader, FileSystemLoader, FunctionLoader, StrictUndefined
            from jinja2.sandbox import ImmutableSandboxedEnvironment

            folders = dict.fromkeys(str(path.parent) for path in self._own.values())
            loaders = [FunctionLoader(self._read_own), FileSystemLoader([*folders, str(_SHIPPED)])]
            self._made = ImmutableSandboxedEnvironment(loader=ChoiceLoader(loaders), undefined=StrictUndefined)
        return self._made

    def _read_own(self, file: str) -> str | None:
        path = self._own.get(file.removesuffix(".jinja"))
        return None if path is None else path.read_text(encoding="utf-8")

    def _sources(self, first: str) -> Iterator[tuple[str, str]]:
        """Yield a template and those that it refers to, each with its text."""
        from jinja2 import TemplateError, meta

        waiting, seen = [first], set[str]()
        while waiting:
            file = waiting.pop(0)
            if file in seen:
                continue
            seen.add(file)
            try:
                source, *_ = self._environment.loader.get_source(self._environment, file)  # type: ignore[union-attr]
                referred = list(meta.find_referenced_templates(self._environment.parse(source)))
            except (TemplateError, OSError, UnicodeDecodeError) as error:
                what = first.removesuffix(".jinja")
                raise kdtool.UsageError(
                    f"templates.{what}: {file} cannot be read as a Jinja template: {error}; repair it, or name another file"
                ) from error
            if None in referred:
                raise kdtool.UsageError(f"templates: {file} computes the name of a template; write the name itself")
            yield file, source
            waiting += [name for name in referred if name is not None]

    def _find_undeclared(self, file: str, source: str) -> set[str]:
        from jinja2 import meta

        return meta.find_undeclared_variables(self._environment.parse(source, filename=file))
