"""Annotations: numbers for each character of an example, added before packing by weightings and teachers of a phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdtool._contract.component import Component
from kdtool._contract.data import Example, parts_of
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError
from kdtool._plugins.owner import blame


def annotate(run: RunInfo, examples: Iterable[Example], labellers: Sequence[str]) -> Iterator[Example]:
    """Yield the examples with annotations by the components of these names.

    Raises:
        PluginError: a component returned other columns, or another number of entries than the text has characters.
    """
    for example in examples:
        size = sum(map(len, parts_of(example.body)))
        annotations: dict[str, Sequence[int]] = {}
        for name in labellers:
            component: Any = run.component(name, Component)
            labels: Mapping[str, Sequence[int]] = component.kdtool_annotate(example)
            with blame(run.hook.owner(name), "kdtool_annotate"):
                if labels.keys() != component.columns or any(len(values) != size for values in labels.values()):
                    returned = ", ".join(f"{column} [{len(values)}]" for column, values in labels.items()) or "nothing"
                    raise PluginError(
                        f"returned {returned} for example {example.id!r}; expected one number for each of its {size} "
                        f"characters in {', '.join(sorted(component.columns)) or 'no column'}"
                    )
            annotations.update(labels)
        yield replace(example, annotations=annotations)
