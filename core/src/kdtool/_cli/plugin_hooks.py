"""`kdtool plugins hooks`: the hooks of a kind, as its base class declares them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence

import click

from kdtool._contract.kind_table import TABLE

_ALL = "component"
"""The name under which the hooks of all kinds are shown."""


@click.command()
@click.argument("kind", required=False, metavar="[KIND]", type=click.Choice([*(kind.name for kind in TABLE), _ALL]))
def hooks(kind: str | None) -> None:
    """Show the hooks of a kind with their documentation; without KIND, the names that suffice for each kind."""
    click.echo("\n".join(_lines(kind)))


def _lines(kind: str | None) -> Iterator[str]:
    from kdtool._contract.component import Component

    if kind is None:
        return _list_kinds()
    return _describe(Component, [Component]) if kind == _ALL else _describe_kind(kind)


def _list_kinds() -> Iterator[str]:
    width = max(len(each.name) for each in TABLE)
    yield from (f"{each.name:<{width}}  {', '.join(enough(each.name))}" for each in TABLE)
    yield f"\nDocumentation: kdtool plugins hooks KIND. Hooks of all kinds: kdtool plugins hooks {_ALL}"


def _describe_kind(kind: str) -> Iterator[str]:
    from kdtool._contract.component import Component
    from kdtool._contract.kinds import FORMS

    group = next(each.group for each in TABLE if each.name == kind)
    yield f"{kind}: entry-point group {group}. Enough to begin with: {', '.join(enough(kind))}."
    shown: set[type] = {Component, object}
    for form in FORMS[kind]:
        yield from _describe(form, [base for base in form.__mro__ if base not in shown])
        shown.update(form.__mro__)
    names = ", ".join(name for name in vars(Component) if name.startswith("kdtool_"))
    yield "\n" + textwrap.fill(f"Every kind also has {names}: kdtool plugins hooks {_ALL}", 100)
    yield f"In Python: help(kdtool.{FORMS[kind][0].__name__})"


def enough(kind: str) -> tuple[str, ...]:
    """Return the names with which a first component of a kind works."""
    from kdtool._contract.hooks import calling_of
    from kdtool._contract.kinds import FORMS

    declared = next(each.enough for each in TABLE if each.name == kind)
    return declared or tuple(name for name, member in vars(FORMS[kind][0]).items() if calling_of(member).needed)


def _describe(cls: type, bases: Sequence[type]) -> Iterator[str]:
    """Yield the documentation of a class, the attributes of `bases`, and the hooks of the class."""
    yield f"\nclass kdtool.{cls.__name__}"
    yield _indent(inspect.getdoc(cls), 2)
    attributes = [f"  {attribute}" for base in bases for attribute in _attributes(base)]
    yield from ["", *attributes] if attributes else []
    for name, member in vars(cls).items():
        if name.startswith("kdtool_"):
            yield f"\n  {name}{_signature(member)}   {_use(member)}\n{_indent(inspect.getdoc(member), 6)}"


def _attributes(cls: type) -> Iterator[str]:
    """Yield a class's attributes as declared; the documentation's page on hooks explains them."""
    for name, hint in inspect.get_annotations(cls).items():
        if name != "kind":
            yield f"{name}: {hint}" + (f" = {vars(cls)[name]!r}" if name in vars(cls) else "")


def _signature(member: object) -> str:
    """Return a hook's signature as it is written in its source, without quotes around annotations."""
    return str(inspect.signature(member)).replace("'", "") if callable(member) else ""


def _use(member: object) -> str:
    from kdtool._contract.hooks import calling_of

    calling = calling_of(member)  # type: ignore[arg-type]
    return "(required)" if calling.needed else "(optional)"


def _indent(text: str | None, by: int) -> str:
    return textwrap.indent(text or "", " " * by)
