"""N-grams against a plain search, a benchmark that is found and removed, and models that are known to repeat or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_evaluator_overlap import Contamination, Decontamination, Memorisation
from kdtool_evaluator_overlap._benchmarks import Benchmarks, distinctive_ngrams
from kdtool_evaluator_overlap._ngrams import NGramIndex, Occurrence, is_name, longest_copies, spans_of, words_of
from kdtool_evaluator_overlap._passages import beginning, passages_of
from kdtool_testing import EvaluatorConformance, FilterConformance, OneRuntime, ScriptedRuntime, make_run

TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=12), max_size=4)
SUBJECT = kdtool.Subject("student", "student", Path("nowhere"), 0)


def grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


def test_words_are_names_and_numbers() -> None:
    assert words_of("def f_1(x):\n\treturn x+10  # né") == ["def", "f_1", "x", "return", "x", "10", "né"]
    assert [word for word in ("x", "f1", "1f", "_a", "é2", "12") if is_name(word)] == ["f1", "_a", "é2"]


@given(st.text())
def test_words_stand_where_spans_say(text: str) -> None:
    assert [text[start:end] for start, end in spans_of(text)] == words_of(text)


@given(TEXTS, st.lists(st.sampled_from("abc"), max_size=20), st.integers(1, 5))
def test_the_index_finds_what_a_plain_search_finds(texts: list[list[str]], words: list[str], n: int) -> None:
    expected = {
        Occurrence(text, start, place)
        for text, own in enumerate(texts)
        for start, one in enumerate(grams(own, n))
        for place, other in enumerate(grams(words, n))
        if one == other
    }
    found = list(NGramIndex(texts, n).occurrences(words))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert [one.place for one in found] == sorted(one.place for one in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one 1 two 2 three 3 four 4 five 5", False),
        ("for i in range n for i in range n", False),
        ("a b c d e f g h i j", False),
        ("return the sum of all even numbers in lst", True),
        ("if x 1 return x 2 else item y x", True),
    ],
)
def test_lists_and_repetitions_are_not_distinctive(text: str, expected: bool) -> None:
    words = text.split()
    assert distinctive_ngrams([words], len(words)) == [[0] if expected else []]


@given(TEXTS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_only_chosen_places_are_found(texts: list[list[str]], n: int, rng: Any) -> None:
    places = [[place for place in range(len(grams(words, n))) if rng.random() < 0.5] for words in texts]
    index = NGramIndex(texts, n, places)
    found = {(one.text, one.start) for words in texts for one in index.occurrences(words)}
    assert found == {(text, place) for text, own in enumerate(places) for place in own}


def test_what_tells_a_text_has_two_names_and_stands_in_two_texts_at_most() -> None:
    assert distinctive_ngrams([["aa", "b", "cc"], ["aa", "b", "1"], ["aa", "b", "aa"]], 3) == [[0], [], []]
    assert distinctive_ngrams([["aa", "bb"]] * 2, 2) == [[0], [0]]
    assert distinctive_ngrams([["aa", "bb"]] * 3, 2) == [[], [], []]
    assert distinctive_ngrams([["aa", "bb"]] * 3, 2, ["0", "0", "0"]) == [[0], [0], [0]]
    assert distinctive_ngrams([["aa", "bb"]], 3) == [[]]


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_longest_copies_are_those_of_a_plain_search(
    written: list[list[str]], documents: list[list[str]], n: int
) -> None:
    for words, found in zip(written, longest_copies(written, documents, n), strict=True):
        runs = (
            length
            for length in range(n, len(words) + 1)
            for own in documents
            if {*grams(words, length)} & {*grams(own, length)}
        )
        assert found == max(runs, default=0)


@given(st.lists(st.text(st.sampled_from("ab \n"), max_size=60), max_size=5), st.integers(1, 4), st.integers(1, 4))
def test_passages_stand_in_their_documents(texts: list[str], prefix: int, continuation: int) -> None:
    documents = [(f"d{number}", text) for number, text in enumerate(texts)]
    found = passages_of(documents, 3, prefix, continuation)
    assert len(found) == min(3, sum(len(words_of(text)) // (prefix + continuation) for text in texts))
    assert len({one.id for one in found}) == len(found)
    for one in found:
        assert one.prefix + one.continuation in dict(documents)[one.id.split(" ")[0]]
        assert (len(words_of(one.prefix)), len(words_of(one.continuation))) == (prefix, continuation)


def test_passages_are_of_the_beginning_alone_and_of_no_data() -> None:
    examples = [kdtool.Example("a", kdtool.Text("x" * 30)), kdtool.Example("a", kdtool.Text("y " * 30))]
    assert list(beginning(examples, 40)) == [("a", "x" * 30), ("a#1", "y " * 5)]
    assert list(beginning(examples, 30)) == [("a", "x" * 30)]
    assert [one.id for one in passages_of(beginning(examples, None), 9, 1, 29)] == ["a#1 0"]
    assert passages_of([("data", f"{'x' * 60} y")], 9, 1, 1) == []


# Benchmarks

SOLUTION = "    total = 0\n    for price in prices:\n        total += price * (1 + tax)\n    return round(total, 2)\n"
PROBLEMS: list[kdtool.Example] = [
    kdtool.Example("bill/0", kdtool.Completion('def bill(prices, tax):\n    """Return the bill."""\n', SOLUTION)),
    kdtool.Example(
        "bill/1", kdtool.Completion("def most(of: List[int], by: Key) -> int:\n", "    return max(of, by)\n")
    ),
    kdtool.Example("bill/2", kdtool.Completion("f", "g")),
]
COPY = kdtool.Example("copy", kdtool.Text(f"import os\n\ndef other():\n    pass\n\ndef mine(prices, tax):\n{SOLUTION}"))
CLEAN = kdtool.Example("clean", kdtool.Text("def area(width, height):\n    return width * height\n" * 3))


class Asking(kdtool.Evaluator):
    """Has problems, and measures nothing."""

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        return PROBLEMS

    def kdtool_evaluate(self, run: kdtool.RunInfo, subjects: Sequence[kdtool.Subject]) -> Iterator[kdtool.Measurement]:
        return iter(())


def asking() -> Mapping[str, kdtool.Component]:
    return {"evaluators.bill": Asking(Asking.Config())}


class TestDecontamination(FilterConformance):
    component = Decontamination
    entry_point = "decontamination"

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return asking()

    def ready(self, run: kdtool.RunInfo) -> Any:
        filter_ = super().ready(run)
        filter_.kdtool_identity(run)
        return filter_

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        text = COPY.body
        assert isinstance(text, kdtool.Text)
        hidden = kdtool.Preference("# a bill\n", "pass\n", text.text)
        talk = kdtool.Messages((("user", "Write a bill."), ("assistant", text.text)))
        return [CLEAN], [COPY, kdtool.Example("pair", hidden), kdtool.Example("talk", talk)]


class TestContamination(EvaluatorConformance):
    component = Contamination
    entry_point = "contamination"

    def companions(self, folder: Path) -> Mapping[str, kdtool.Component]:
        return asking()

    def examples(self) -> Sequence[kdtool.Example]:
        return [COPY, CLEAN]

    def nothing_to_measure(self, folder: Path) -> Iterator[Mapping[str, Any]]:
        yield {"n": 100}  # no problem has so many words


class TestMemorisation(EvaluatorConformance):
    component = Memorisation
    entry_point = "memorisation"
    settings: ClassVar[dict[str, Any]] = {"prefix": 5, "continuation": 5, "n": 2}

    def nothing_to_measure(self, folder: Path) -> Iterator[Mapping[str, Any]]:
        yield {"prefix": 10_000}


def contamination(folder: Path, examples: Sequence[kdtool.Example], said: list[str]) -> list[kdtool.Measurement]:
    run = make_run(folder, asking(), examples, say=said.append)
    subjects = [SUBJECT, kdtool.Subject("control", "control", Path("nowhere"), 0), kdtool.Subject("teacher", "teacher")]
    return list(Contamination(Contamination.Config()).kdtool_evaluate(run, subjects))


def test_problems_in_the_training_text_are_counted_and_named(tmp_path: Path) -> None:
    said: list[str] = []
    own, control = contamination(tmp_path, [COPY, CLEAN], said)
    assert (own.name, own.subject, own.n) == ("contamination.bill", "student", 3)
    assert own.value == control.value == pytest.approx(1 / 3)
    assert own.items is None
    assert said == [
        "contamination: 1 of 3 problems of bill found in the training text, by words or code, in 1 of 2 documents: bill/0",
        "contamination: 1 of 3 problems of bill without a distinctive n-gram",
    ]
    (found,) = map(json.loads, (tmp_path / "bill.found.jsonl").read_text(encoding="utf-8").splitlines())
    assert (found["problem"], found["documents"]) == ("bill/0", ["copy"])
    assert found["words"] in " ".join(words_of(SOLUTION))


def test_models_that_were_trained_elsewhere_are_not_called_clean(tmp_path: Path) -> None:
    said: list[str] = []
    run = make_run(tmp_path, asking(), [CLEAN], say=said.append)
    evaluator = Contamination(Contamination.Config())
    foreign = kdtool.Subject("codellama", "artifact", Path("nowhere"))
    seeded = kdtool.Subject("other-run", "artifact", Path("nowhere"), 0)
    teacher = kdtool.Subject("teacher", "teacher")
    assert list(evaluator.kdtool_evaluate(run, [foreign, seeded, teacher])) == []
    assert len(said) == 1
    assert "codellama, other-run is left out" in said[0]
    export = kdtool.Subject("student-gguf", "artifact", Path("nowhere"), 0)
    found = list(evaluator.kdtool_evaluate(run, [SUBJECT, export, teacher]))
    assert {one.subject for one in found} == {"student", "student-gguf"}


def test_held_out_text_is_no_training_text(tmp_path: Path) -> None:
    held_out = kdtool.Example("copy", COPY.body, "test")
    assert [one.value for one in contamination(tmp_path, [held_out, CLEAN], [])] == [0.0, 0.0]


def test_without_training_text_nothing_is_clean(tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match="contamination: the split 'train' holds no documents"):
        contamination(tmp_path, [kdtool.Example("copy", COPY.body, "test")], [])


def test_what_several_problems_have_tells_none(tmp_path: Path) -> None:
    shared = "from typing import List, Tuple, Dict, Optional, Any\nimport math\n"
    bodies = [kdtool.Completion(shared, f"def f():\n    return {i} * {i}\n") for i in range(3)]
    benchmarks = Benchmarks({"own": [kdtool.Example(str(i), body) for i, body in enumerate(bodies)]}, 6)
    assert benchmarks.each[0].hidden == []
    assert benchmarks.found_in([shared]) == [[]]
    (found,) = benchmarks.found_in([shared + bodies[1].completion])
    assert [match.problem for match in found] == ["1"]


@pytest.mark.parametrize("component", [Contamination, Decontamination])
def test_without_a_benchmark_there_is_nothing_to_compare_with(component: type[Any], tmp_path: Path) -> None:
    with pytest.raises(kdtool.UsageError, match="contamination: no evaluator of the recipe publishes its problems"):
        component(component.Config()).kdtool_identity(make_run(tmp_path))


def test_other_problems_are_another_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, asking())
    filter_, evaluator = Decontamination(Decontamination.Config()), Contamination(Contamination.Config())
    before = filter_.kdtool_identity(run)
    assert evaluator.kdtool_identity(run) == before
    monkeypatch.setitem(globals(), "PROBLEMS", [*PROBLEMS[:2], replace(PROBLEMS[2], body=kdtool.Text("other"))])
    assert filter_.kdtool_identity(run) != before
    assert evaluator.kdtool_identity(run) != before


# Memorisation

TRAINED = "".join(f"def name_{i}(value):\n    return value + {i} * other_{i}\n\n" for i in range(40))


class Repeating(ScriptedRuntime):
    """Continues a prompt as the text does where it contains it; else with something else."""

    def __init__(self, text: str) -> None:
        super().__init__(self.continue_text)
        self.text = text

    def continue_text(self, request: kdtool.Request) -> str:
        _, known, rest = self.text.partition(request.prompt)
        return (rest if known else "something else entirely")[: request.max_tokens]


def memorisation(folder: Path, runtime: kdtool.Runtime, **settings: Any) -> dict[str, kdtool.Measurement]:
    run = make_run(folder, {"any": OneRuntime(runtime)}, [kdtool.Example("trained", kdtool.Text(TRAINED))])
    evaluator = Memorisation(Memorisation.Config(**{"prefix": 10, "continuation": 20, "n": 4, **settings}))
    return {found.name: found for found in evaluator.kdtool_evaluate(run, [SUBJECT])}


def test_who_repeats_its_text_has_memorised_it_all(tmp_path: Path) -> None:
    runtime = Repeating(TRAINED)
    found = memorisation(tmp_path, runtime)
    assert found["memorised"].value == 1.0
    assert found["longest-copy"].value == 20.0
    assert len(runtime.asked) == len(words_of(TRAINED)) // 30
    assert {request.temperature for request in runtime.asked} == {0}


def test_passages_of_a_document_are_one_item_of_intervals(tmp_path: Path) -> None:
    other = " ".join(f"other_{number}" for number in range(70))
    examples = [kdtool.Example("known", kdtool.Text(TRAINED)), kdtool.Example("unknown", kdtool.Text(other))]
    run = make_run(tmp_path, {"any": OneRuntime(Repeating(TRAINED))}, examples)
    evaluator = Memorisation(Memorisation.Config(prefix=10, continuation=20, n=4))
    found = next(iter(evaluator.kdtool_evaluate(run, [SUBJECT])))
    known = len(words_of(TRAINED)) // 30
    assert found.items is not None
    rows = [json.loads(line) for line in found.items.read_text(encoding="utf-8").splitlines()]
    assert {row["item"]: (row["sum"], row["weight"]) for row in rows} == {"known": (known, known), "unknown": (0.0, 2)}
    assert (found.value, found.low, found.high) == (known / (known + 2), None, None)


def test_a_copy_of_another_place_is_a_copy_and_not_memorised(tmp_path: Path) -> None:
    copied = "oh no: def name_7(value):\n    return value + 8"
    found = memorisation(tmp_path, ScriptedRuntime(lambda _: copied))
    assert found["memorised"].value == 0.0
    assert found["longest-copy"].value == len(words_of("def name_7(value): return value +"))


def test_text_that_is_too_short_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    run = make_run(tmp_path, {}, [CLEAN])
    with pytest.raises(kdtool.UsageError, match=r"memorisation\.prefix: .* split 'train' has 25 \+ 25 words"):
        list(Memorisation(Memorisation.Config()).kdtool_evaluate(run, [SUBJECT]))


class Narrow(Repeating):
    """Knows its context, which is a token a character."""

    context = 330

    def count(self, text: str) -> int:
        return len(text)


def test_passages_beyond_the_context_are_not_asked_and_counted(tmp_path: Path) -> None:
    words = [word * (7 if number % 60 < 30 else 1) for number, word in enumerate(["abc"] * 120)]
    text, runtime = " ".join(words), Narrow("nothing")
    run = make_run(tmp_path, {"any": OneRuntime(runtime)}, [kdtool.Example("trained", kdtool.Text(text))])
    evaluator = Memorisation(Memorisation.Config(prefix=10, continuation=20, n=4))
    found = {one.name: one for one in evaluator.kdtool_evaluate(run, [SUBJECT])}
    assert [len(request.prompt) for request in runtime.asked] == [10 * 3 + 9] * 2
    assert (found["memorisation.unanswered"].value, found["memorisation.unanswered"].n) == (0.5, 4)
    assert found["memorised"].value == 0.0
