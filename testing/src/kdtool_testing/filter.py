"""The suite of filters."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from kdtool import Completion, Example, Messages, Preference, RunInfo, Text

from kdtool_testing.component import ComponentConformance

__all__ = ["FilterConformance"]

EXAMPLES = (
    *(
        Example(f"id-{i}-", Text(f"def f{i}(x):\n    return x + {i}\n" * (1 + i % 5)), language="python")
        for i in range(9)
    ),
    Example("id-empty", Text("")),
    Example("id-broken", Text("def f(:\n\treturn }"), language="python"),
    Example("id-odd", Text("\x00\ufffd é 漢 \U0001f600\r\n" * 20), split="test"),
    Example("id-long", Text("x = 1\n" * 5000), split="validation", licence="MIT"),
    Example("id-copy", Text("def f1(x):\n    return x + 1\n" * 2), language="python"),
    Example("id-pair", Completion("# add one\n", "x += 1\n")),
    Example("id-preference", Preference("# add one\n", "x += 1\n", "x -= 1\n")),
    Example("id-talk", Messages((("system", "Be brief."), ("user", "print 1"), ("assistant", "print(1)")))),
)


class FilterConformance(ComponentConformance):
    """A filter answers for every example, gives short reasons, and decides the same however examples are batched."""

    kind: ClassVar[str] = "filter"

    def examples(self) -> tuple[Sequence[Example], Sequence[Example]]:
        """Return examples that the filter keeps and examples that it rejects: those it keeps, those it rejects."""
        raise NotImplementedError

    def test_there_is_one_answer_for_each_example(self, run: RunInfo) -> None:
        answers = self.ready(run).kdtool_filter(run, EXAMPLES)
        assert len(answers) == len(EXAMPLES)
        for answer in answers:
            assert answer is None or isinstance(answer, str)

    def test_reasons_are_short_and_few(self, run: RunInfo) -> None:
        reasons = {answer for answer in self.ready(run).kdtool_filter(run, EXAMPLES) if answer}
        for reason in reasons:
            assert 0 < len(reason) <= 80, reason
            assert "\n" not in reason
            assert not any(example.id in reason for example in EXAMPLES), "reasons are counted: name no example"

    def test_it_keeps_and_rejects_what_it_should(self, run: RunInfo) -> None:
        kept, rejected = self.examples()
        assert kept
        assert rejected
        answers = self.ready(run).kdtool_filter(run, [*kept, *rejected])
        assert [answer is None for answer in answers] == [True] * len(kept) + [False] * len(rejected)

    def test_nothing_to_judge_is_no_error(self, run: RunInfo) -> None:
        assert list(self.ready(run).kdtool_filter(run, [])) == []

    def test_it_decides_the_same_each_time_and_in_any_batches(self, run: RunInfo) -> None:
        whole = list(self.ready(run).kdtool_filter(run, EXAMPLES))
        assert list(self.ready(run).kdtool_filter(run, EXAMPLES)) == whole
        for size in (1, 5):
            filter_ = self.ready(run)
            assert [answer for batch in _cut(size) for answer in filter_.kdtool_filter(run, batch)] == whole

    def test_examples_stay_as_they_are(self, run: RunInfo) -> None:
        meta: Mapping[str, Any] = {"stars": "3"}
        example = Example("a", Text("x = 1\n"), meta=dict(meta))
        before = repr(example)
        self.ready(run).kdtool_filter(run, [example])
        assert repr(example) == before


def _cut(size: int) -> Iterator[Sequence[Example]]:
    for start in range(0, len(EXAMPLES), size):
        yield EXAMPLES[start : start + size]
