"""The suite of annotators."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from kdtool._contract.data import Example, Messages, Text, parts_of
from kdtool._contract.run_info import RunInfo

from kdtool_testing.component import ComponentConformance
from kdtool_testing.filter import EXAMPLES

__all__ = ["AnnotatorConformance"]

_CODE = 'def f(x):\n    """What it does."""\n    return f"{x!r}\\n" + 0x1F * x  # a comment\n'
_FENCED = Messages((("user", "print 1"), ("assistant", "So:\n```python\nprint(1)\n```\nand\n```\n1 +")))
_CUT = tuple(
    Example(f"cut-{language}-{end}", Text(_CODE[:end]), language=language)
    for language in ("python", "c++", "", "no language")
    for end in range(0, len(_CODE), 3)
)


class AnnotatorConformance(ComponentConformance):
    """An annotator gives all its columns, one number a character, of any text, the same whatever came before."""

    kind: ClassVar[str] = "annotator"

    def examples(self) -> Sequence[Example]:
        """Return what is annotated: texts of every form, whole, empty, broken and cut anywhere."""
        return (*EXAMPLES, *_CUT, Example("fenced", _FENCED))

    def test_it_says_which_columns_it_gives(self) -> None:
        columns = self.build().columns
        assert columns, "set `columns` to the names that kdtool_annotate gives"
        assert all(name.isidentifier() for name in columns), columns

    def test_every_character_has_one_number_in_every_column(self, run: RunInfo) -> None:
        annotator = self.ready(run)
        for example in self.examples():
            size = sum(map(len, parts_of(example.body)))
            found = annotator.kdtool_annotate(example)
            assert found.keys() == annotator.columns
            assert {len(values) for values in found.values()} == {size}, "one number a character, not a byte or a line"

    def test_numbers_are_whole_and_not_negative(self, run: RunInfo) -> None:
        annotator = self.ready(run)
        for example in self.examples():
            for values in annotator.kdtool_annotate(example).values():
                assert all(type(value) is int and 0 <= value < 2**31 for value in values)

    def test_an_answer_depends_on_its_example_alone(self, run: RunInfo) -> None:
        first, second = self.ready(run), self.ready(run)
        forwards = [{**first.kdtool_annotate(example)} for example in self.examples()]
        backwards = [{**second.kdtool_annotate(example)} for example in reversed(self.examples())]
        assert [{name: list(values) for name, values in found.items()} for found in forwards] == [
            {name: list(values) for name, values in found.items()} for found in reversed(backwards)
        ]

    def test_examples_stay_as_they_are(self, run: RunInfo) -> None:
        example = Example("a", Text("x = 1\n"), meta={"stars": "3"})
        before = repr(example)
        self.ready(run).kdtool_annotate(example)
        assert repr(example) == before
