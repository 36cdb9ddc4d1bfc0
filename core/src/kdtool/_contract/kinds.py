"""The base class of each kind of component."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping

from kdtool._contract.component import Component
from kdtool._contract.kind_table import TABLE

KINDS: Mapping[str, type[Component]] = {kind.name: pkgutil.resolve_name(kind.base) for kind in TABLE}
"""The base class of each kind, by the kind's name."""
FORMS: Mapping[str, tuple[type[Component], ...]] = {
    kind.name: tuple(map(pkgutil.resolve_name, kind.forms or (kind.base,))) for kind in TABLE
}
"""The classes of which a component extends exactly one, by the kind's name: the base class, except for losses."""


def form_of(cls: type, kind: str) -> type[Component]:
    """Return the class of its kind's forms that a component's class extends."""
    return next(form for form in FORMS[kind] if issubclass(cls, form))
