"""The suite of weightings. Torch is imported when a test runs."""
# ruff: noqa: S101 - these are tests

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from kdtool import Example, Messages, SignalKind, TermReport, Text, TokenChunk, Weighting, parts_of
from kdtool._plugins.hooks import ComponentHooks

from kdtool_testing.component import ComponentConformance
from kdtool_testing.data import FILTER_EXAMPLES as EXAMPLES
from kdtool_testing.loss import part_of, teacher_tokens

if TYPE_CHECKING:
    from torch import Tensor

POSITIONS, VOCABULARY = 512, 23
_CODE = 'def f(x):\n    """What it does."""\n    return f"{x!r}\\n" + 0x1F * x  # a comment\n'
_FENCED = Messages((("user", "print 1"), ("assistant", "So:\n```python\nprint(1)\n```\nand\n```\n1 +")))
_CUT = tuple(
    Example(f"cut-{language}-{end}", Text(_CODE[:end]), language=language)
    for language in ("python", "c++", "", "no language")
    for end in range(0, len(_CODE), 3)
)


class WeightingConformance(ComponentConformance):
    """Token weights are finite, not negative and each its position's own; balances are factors of terms.

    Labels of characters, if it labels text itself, are complete for any text and independent of other texts.
    A weighting that balances keeps what it needs between steps in `state`.
    """

    kind: ClassVar[str] = "weighting"
    teachers: ClassVar[tuple[SignalKind | None, ...]] = (None, "logits", "top-k")
    """The teachers a chunk may have for this weighting: None, "logits", "sampled" or "top-k"."""
    columns: ClassVar[Mapping[str, int]] = {}
    """Columns that the weighting reads, each with the number of values it has."""

    def examples(self) -> Sequence[Example]:
        """Return the examples that are labelled: texts of every form, whole, empty, broken and cut anywhere."""
        return (*EXAMPLES, *_CUT, Example("fenced", _FENCED))

    def test_it_says_which_columns_it_reads(self) -> None:
        assert self.build().columns == set(self.columns), "`columns` of the component and of its suite must agree"

    def test_it_weighs_tokens_or_balances_terms(self) -> None:
        assert self._implements("kdtool_token_weight") or self._implements("kdtool_balance")

    def test_weights_have_the_right_form(self) -> None:
        import torch

        for chunk in self._chunks():
            for dtype in (torch.float32, torch.bfloat16):
                logits = chunk.student_logits.to(dtype).requires_grad_()
                weights = self.build().kdtool_token_weight(replace(chunk, student_logits=logits))
                assert weights.shape == (POSITIONS,)
                assert weights.is_floating_point()
                assert not weights.requires_grad
                assert weights.isfinite().all()
                assert (weights >= 0).all()

    def test_they_do_not_all_vanish(self) -> None:
        for chunk in self._chunks():
            assert float(self._weights(chunk).float().sum()) > 0, "no position of 512 random ones has any weight"

    def test_a_weight_is_its_position_s_own(self) -> None:
        import torch

        for chunk in self._chunks():
            whole = self._weights(chunk)
            parts = torch.cat([self._weights(part_of(chunk, slice(i, i + 64))) for i in range(0, POSITIONS, 64)])
            torch.testing.assert_close(parts, whole)

    def test_weighing_changes_nothing_and_remembers_nothing(self) -> None:
        for chunk in self._chunks():
            weighting, logits = self.build(), chunk.student_logits.clone()
            first = weighting.kdtool_token_weight(chunk)
            assert chunk.student_logits.equal(logits)
            assert weighting.kdtool_token_weight(chunk).equal(first)

    def test_weights_can_be_compiled_as_one_graph(self) -> None:
        import torch

        for chunk in self._chunks():
            weighting = self.build()

            def weights(logits: Tensor, step: Tensor, chunk: TokenChunk = chunk, weighting: Any = weighting) -> Tensor:
                seen = TokenChunk(
                    logits, chunk.labels, chunk.teacher, chunk.positions, 1.0, chunk.progress, step, chunk.columns
                )
                result: Tensor = weighting.kdtool_token_weight(seen)
                return result

            torch.compiler.reset()
            compiled = torch.compile(weights, fullgraph=True, backend="eager")
            logits = chunk.student_logits
            torch.testing.assert_close(compiled(logits, chunk.step), weights(logits, chunk.step))
            with torch.compiler.set_stance("fail_on_recompile"):
                compiled(logits, chunk.step + 1)

    def test_every_character_has_one_number_in_every_column(self) -> None:
        for example, labels in self._label(self.examples()):
            size = sum(map(len, parts_of(example.body)))
            assert labels.keys() == self.build().columns
            assert {len(values) for values in labels.values()} == {size}, (
                "one number per character, not per byte or line"
            )

    def test_labels_are_whole_numbers_and_not_negative(self) -> None:
        for _, labels in self._label(self.examples()):
            for values in labels.values():
                assert all(type(value) is int and 0 <= value < 2**31 for value in values)

    def test_labels_depend_on_their_example_alone(self) -> None:
        forwards = self._label(self.examples())
        backwards = self._label(self.examples()[::-1])[::-1]
        for (_, first), (_, second) in zip(forwards, backwards, strict=True):
            assert {name: list(values) for name, values in first.items()} == {
                name: list(values) for name, values in second.items()
            }

    def test_labelled_examples_stay_as_they_are(self) -> None:
        example = Example("a", Text("x = 1\n"), meta={"stars": "3"})
        before = repr(example)
        self._label([example])
        assert repr(example) == before

    def test_balances_are_factors_of_the_terms_there_are(self) -> None:
        if not self._implements("kdtool_balance"):
            return
        for reports in _histories():
            for terms, factors in zip(reports, self._balances(reports), strict=True):
                assert factors is None or set(factors) <= set(terms)
                assert all(0 <= factor < float("inf") for factor in (factors or {}).values())

    def test_balances_are_the_same_each_time(self) -> None:
        if self._implements("kdtool_balance"):
            for reports in _histories():
                assert self._balances(reports) == self._balances(reports)

    def test_it_goes_on_from_its_state_as_if_nothing_had_happened(self) -> None:
        if not self._implements("kdtool_balance"):
            return
        for reports in _histories():
            whole = self._balances(reports)
            for cut in range(1, len(reports)):
                state: dict[str, Any] = {}
                self._balances(reports[:cut], state)
                restored = json.loads(json.dumps(state, allow_nan=False))
                assert self._balances(reports[cut:], restored, 2 + cut) == whole[cut:], (
                    "a resumed phase would continue with other weights: keep everything in `state` of kdtool_balance"
                )

    def _label(self, examples: Sequence[Example]) -> list[tuple[Example, Mapping[str, Sequence[int]]]]:
        """Return the examples with their labels by one new weighting; none if it does not label text."""
        weighting = self.build()
        labels = self._implements("kdtool_annotate")
        return [(example, {**weighting.kdtool_annotate(example)}) for example in examples] if labels else []

    def _implements(self, hook: str) -> bool:
        from kdtool._plugins.hook_specs import implements

        return implements(self.component, hook)

    def _balances(
        self, reports: list[dict[str, TermReport]], state: dict[str, Any] | None = None, first: int = 2
    ) -> list[Any]:
        """Return the factors of steps from `first` on, by a new weighting that continues from `state`."""
        weighting = ComponentHooks({"weighting": self.build()}).component("weighting", Weighting)
        kept: dict[str, Any] = {} if state is None else state
        return [weighting.kdtool_balance(terms, step, kept) for step, terms in enumerate(reports, first)]

    def _weights(self, chunk: TokenChunk) -> Tensor:
        weights: Tensor = self.build().kdtool_token_weight(chunk)
        return weights

    def _chunks(self) -> list[TokenChunk]:
        import torch

        if not self._implements("kdtool_token_weight"):
            return []
        generator = torch.Generator().manual_seed(0)
        student, teacher = (2 * torch.randn(POSITIONS, VOCABULARY, generator=generator) for _ in range(2))
        columns = {name: torch.arange(POSITIONS) % count for name, count in self.columns.items()}
        return [
            TokenChunk(
                student_logits=student,
                labels=torch.randint(VOCABULARY, (POSITIONS,), generator=generator),
                teacher=None if form is None else teacher_tokens(frozenset({form}), teacher, 1.0),
                positions=torch.arange(POSITIONS),
                temperature=1.0,
                progress=torch.tensor(0.5),
                step=torch.tensor(3),
                columns=columns,
            )
            for form in self.teachers
        ]


def _histories() -> list[list[dict[str, TermReport]]]:
    """Return terms' figures of some steps: falling, without gradient norms, at zero, and a single term."""
    falling = [{"a": TermReport(4.0 / n, 1.0, 0.3 / n), "b": TermReport(1.0, 0.5, 0.01 * n)} for n in range(1, 8)]
    return [
        falling,
        [{name: replace(report, gradient_norm=None) for name, report in terms.items()} for terms in falling],
        [{"a": TermReport(0.0, 1.0, 0.0), "b": TermReport(0.0, 0.0, 0.0)} for _ in range(3)],
        [{"a": TermReport(2.0, 1.0, 0.5)} for _ in range(3)],
    ]
