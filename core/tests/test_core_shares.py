"""Corpora mixed by shares: the proportion holds everywhere, nothing disappears unsaid, and mistakes are the recipe's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool._run.stages.text import Counts, gather
from kdtool_testing import make_run


class Given(kdtool.Corpus):
    """Examples of given sizes and splits."""

    def __init__(self, sizes: Sequence[tuple[kdtool.Split, int]]) -> None:
        super().__init__(self.Config())
        self.sizes = sizes
        self.read = 0

    def kdtool_examples(self, run: kdtool.RunInfo) -> Iterator[kdtool.Example]:
        for number, (split, size) in enumerate(self.sizes):
            self.read += 1
            yield kdtool.Example(f"e{number}", kdtool.Text("x" * size), split, language="python" if size % 2 else "go")


class Short(kdtool.Filter):
    """Rejects texts of more than 30 bytes."""

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        return ["long" if isinstance(e.body, kdtool.Text) and len(e.body.text) > 30 else None for e in examples]


def size(example: kdtool.Example) -> int:
    assert isinstance(example.body, kdtool.Text)
    return len(example.body.text)


def gathered(
    corpora: dict[str, Given], shares: dict[str, float], filter_: bool = False
) -> tuple[list[tuple[str, kdtool.Example]], dict[str, Any]]:
    counts = Counts(corpora, shares)
    parts: dict[str, kdtool.Component] = {**corpora, **({"short": Short(Short.Config())} if filter_ else {})}
    found = []
    for name, example in gather(make_run(Path(), parts), list(corpora), ["short"] if filter_ else [], shares, counts):
        counts.add(name, example)
        found.append((name, example))
    return found, counts.summary()


sizes = st.lists(
    st.tuples(st.sampled_from(["train", "train", "train", "validation", "test"]), st.integers(1, 50)), max_size=400
)


@given(st.lists(sizes, min_size=2, max_size=3), st.lists(st.integers(1, 9), min_size=3, max_size=3), st.booleans())
def test_every_beginning_has_the_shares_to_within_a_document(
    documents: list[list[tuple[kdtool.Split, int]]], weights: list[int], filter_: bool
) -> None:
    shares = {f"c{i}": weights[i] / sum(weights[: len(documents)]) for i in range(len(documents))}
    corpora = {name: Given(own) for name, own in zip(shares, documents, strict=True)}
    kept = {name: [pair for pair in corpus.sizes if not filter_ or pair[1] <= 30] for name, corpus in corpora.items()}
    if not all(any(split == "train" for split, _ in own) for own in kept.values()):
        with pytest.raises(kdtool.UsageError, match=r"has the share .* and yields no text"):
            gathered(corpora, shares, filter_)
        return
    found, summary = gathered(corpora, shares, filter_)
    assert found == gathered(corpora, shares, filter_)[0]
    used = dict.fromkeys(shares, 0)
    for name, example in found:
        if example.split == "train":
            used[name] += size(example)
            parts = {one: (used[one] / share, 50 / share) for one, share in shares.items()}
            least = min(part for part, _ in parts.values())
            assert all(part <= least + document + 1e-6 for part, document in parts.values())
    for split in ("validation", "test"):
        taken = Counter((name, size(example)) for name, example in found if example.split == split)
        assert taken == Counter((name, pair[1]) for name, own in kept.items() for pair in own if pair[0] == split)
    whole = {name: sum(pair[1] for pair in own if pair[0] == "train") for name, own in kept.items()}
    assert any(used[name] == whole[name] for name in shares), "one is used up"
    for (name, share), described in zip(shares.items(), summary["corpora"], strict=True):
        assert described["share_wanted"] == share
        assert described["share_of_training"] == pytest.approx(used[name] / sum(used.values()))
        if not filter_:
            assert described["left_out_bytes"] == whole[name] - used[name]


def test_examples_of_each_corpus_keep_their_order_and_come_in_turns() -> None:
    corpora = {"a": Given([("train", 10)] * 6), "b": Given([("train", 10)] * 600)}
    found, summary = gathered(corpora, {"a": 0.25, "b": 0.75})
    assert [name for name, _ in found[:8]] == ["a", "b", "b", "b", "a", "b", "b", "b"]
    assert Counter(name for name, _ in found)["a"] == 6
    assert [int(example.id[1:]) for name, example in found if name == "b"] == list(range(18))
    assert [own["left_out_documents"] for own in summary["corpora"]] == [0, 582]


def test_without_shares_corpora_follow_each_other_whole() -> None:
    corpora = {"a": Given([("train", 11)] * 3), "b": Given([("train", 10), ("test", 40)])}
    found, summary = gathered(corpora, {}, filter_=True)
    assert [name for name, _ in found] == ["a", "a", "a", "b"]
    assert summary["corpora"] == [
        {"documents": 3, "bytes": 33, "licences": {"unknown": 3}, "languages": {"python": 3}},
        {"documents": 1, "bytes": 10, "licences": {"unknown": 1}, "languages": {"go": 1}, "rejected": {"long": 1}},
    ]


def test_a_run_records_the_shares_and_what_they_left_out(recipe: dict[str, Any]) -> None:
    corpus = recipe.pop("corpus")
    two = {**corpus, "documents": 60, "letter": "e", "share": 0.75}
    recipe["corpora"] = {"one": {**corpus, "documents": 12, "share": 0.25}, "two": two}
    results = kdtool.run(recipe)
    one, two = results.data["corpora"]["corpora.one"], results.data["corpora"]["corpora.two"]
    assert (one["share_wanted"], two["share_wanted"]) == (0.25, 0.75)
    assert two["share_of_training"] == pytest.approx(0.75, abs=0.04)
    assert one["left_out_documents"] == 0 < two["left_out_documents"]
    assert one["licences"] == {"MIT": 12}
    changed = kdtool.plan(recipe, {"corpora.one.share": 0.5, "corpora.two.share": 0.5})
    assert next(stage for stage in changed if stage.name == "text").why


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (
            (0.5, 0.6),
            r"corpora: the shares sum to 1.1, not to 1\s+in the same proportion: one: {share: 0.455}, two: {share: 0.545}",
        ),
        ((0.5, None), r"corpora\.two: needs a share, since one has one"),
        ((0, 1), r"corpora\.one\.share: must be a number above 0 and at most 1, not 0"),
        ((float("nan"), 0.5), r"corpora\.one\.share: must be a number above 0 and at most 1, not nan"),
    ],
)
def test_shares_that_make_no_sense_are_the_recipe_s_mistakes(
    recipe: dict[str, Any], shares: tuple[Any, Any], message: str
) -> None:
    corpus = recipe.pop("corpus")
    named = zip(("one", "two"), shares, strict=True)
    recipe["corpora"] = {name: {**corpus, **({} if share is None else {"share": share})} for name, share in named}
    with pytest.raises(kdtool.RecipeError, match=message):
        kdtool.check(recipe)


def test_a_phase_s_own_corpora_have_shares_of_their_own(recipe: dict[str, Any]) -> None:
    corpus = recipe["corpus"]
    recipe["train"]["corpora"] = {"one": {**corpus, "share": 0.5}, "two": {**corpus, "share": 0.4}}
    with pytest.raises(kdtool.RecipeError, match=r"train\.corpora: the shares sum to 0\.9"):
        kdtool.check(recipe)
    recipe["train"]["corpora"]["two"]["share"] = 0.5
    assert kdtool.check(recipe)


def test_the_first_examples_of_each_reason_are_named() -> None:
    counts = Counts(["corpus"], {})
    examples = [kdtool.Example(f"id{number}", kdtool.Text("x")) for number in range(5)]
    counts.reject("filters.short", (("corpus", example, "too short") for example in examples))
    counts.reject("filters.short", [("corpus", examples[4], "empty")])
    summary = counts.summary()
    assert summary["rejected"] == {"filters.short": {"too short": 5, "empty": 1}}
    assert summary["corpora"][0]["rejected"] == {"too short": 5, "empty": 1}
    samples = {"filters.short: too short": ["id0", "id1", "id2"], "filters.short: empty": ["id4"]}
    assert summary["rejected_examples"] == samples
    assert "rejected_examples" not in Counts(["corpus"], {}).summary()
