"""Annotations: numbers for each character of an example, added by the recipe's annotators before packing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from kdtool._contract.corpus import Annotator
from kdtool._contract.data import Example, parts_of
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError
from kdtool._plugins.owner import blame


def annotate(run: RunInfo, examples: Iterable[Example], columns: Mapping[str, frozenset[str]]) -> Iterator[Example]:
    """Yield the examples with annotations; `columns` are the expected ones of each annotator, by component.

    Raises:
        PluginError: an annotator returned other columns, or another number of entries than the text has characters.
    """
    for example in examples:
        size = sum(map(len, parts_of(example.body)))
        annotations: dict[str, Sequence[int]] = {}
        for name, wanted in columns.items():
            found = run.component(name, Annotator).kdtool_annotate(example)
            with blame(run.hook.owner(name), "kdtool_annotate"):
                if found.keys() != wanted or any(len(values) != size for values in found.values()):
                    returned = ", ".join(f"{column} [{len(values)}]" for column, values in found.items()) or "nothing"
                    raise PluginError(
                        f"returned {returned} for example {example.id!r}; expected one number for each of its {size} "
                        f"characters in {', '.join(sorted(wanted)) or 'no column'}"
                    )
            annotations.update(found)
        yield replace(example, annotations=annotations)
