"""The base class of each kind of component."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping

from kdtool._contract.component import Component
from kdtool._contract.kind_table import TABLE

KINDS: Mapping[str, type[Component]] = {kind.name: pkgutil.resolve_name(kind.base) for kind in TABLE}
"""The base class of each kind, by the kind's name."""
