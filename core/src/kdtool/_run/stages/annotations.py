"""Examples with what the recipe's annotators say of them, as packers are given them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from kdtool._contract.corpus import Annotator
from kdtool._contract.data import Example, parts_of
from kdtool._contract.run_info import RunInfo
from kdtool._errors import PluginError
from kdtool._plugins.owner import blame

__all__ = ["annotated"]


def annotated(run: RunInfo, examples: Iterable[Example], columns: dict[str, frozenset[str]]) -> Iterator[Example]:
    """Yield the examples with annotations; `columns` are those that each annotator is to give, by component.

    Raises:
        PluginError: an annotator gave other columns, or another number of entries than the text has characters.
    """
    for example in examples:
        size = sum(map(len, parts_of(example.body)))
        said: dict[str, Sequence[int]] = {}
        for name, wanted in columns.items():
            found = run.component(name, Annotator).kdtool_annotate(example)
            with blame(run.hook.owner(name), "kdtool_annotate"):
                _check(found, wanted, size, example.id)
            said.update(found)
        yield replace(example, annotations=said)


def _check(found: Mapping[str, Sequence[int]], wanted: frozenset[str], size: int, identifier: str) -> None:
    if found.keys() != wanted or any(len(values) != size for values in found.values()):
        gave = ", ".join(f"{column} [{len(values)}]" for column, values in found.items()) or "nothing"
        raise PluginError(
            f"gave {gave} of example {identifier!r}; expected one number for each of its {size} characters in "
            f"{', '.join(sorted(wanted)) or 'no column'}"
        )
