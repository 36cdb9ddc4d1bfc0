"""The filter `duplicates`: the suite of filters, recall against the exact Jaccard index and datasketch, and forgetting."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kdtool
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdtool_data.duplicates import DuplicatesFilter
from kdtool_data.duplicates.near import NearTexts, bands_for, jaccard, shingles_of
from kdtool_testing import FilterConformance, make_run

WORDS = [f"name{number}" for number in range(2000)]


def filter_(**settings: Any) -> DuplicatesFilter:
    return DuplicatesFilter(DuplicatesFilter.Config.model_validate(settings))


def judge(texts: Sequence[str], folder: Path, **settings: Any) -> list[str | None]:
    examples = [kdtool.Example(f"{number}", kdtool.Text(text)) for number, text in enumerate(texts)]
    made = filter_(**settings)
    try:
        return list(made.kdtool_filter(make_run(folder), examples))
    finally:
        made.kdtool_close()


def written(seed: int, words: int = 200) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def changed(words: list[str], seed: int, times: int) -> list[str]:
    drawn, found = random.Random(seed), list(words)
    for _ in range(times):
        found[drawn.randrange(len(found))] = drawn.choice(WORDS)
    return found


class TestDuplicates(FilterConformance):
    component = DuplicatesFilter
    entry_point = "duplicates"

    def examples(self) -> tuple[Sequence[kdtool.Example], Sequence[kdtool.Example]]:
        first = " ".join(written(0))
        kept = [kdtool.Example("a", kdtool.Text(first)), kdtool.Example("b", kdtool.Text(" ".join(written(1))))]
        nearly = kdtool.Text(" ".join(changed(written(0), 0, 2)))
        return kept, [kdtool.Example("c", kdtool.Text(first + " \n")), kdtool.Example("d", nearly)]


def test_characters_in_a_line_do_not_end_it(tmp_path: Path) -> None:
    texts = [f"x = '''a{end}b'''" for end in ("\n", "\r\n", "\r", "\x0c", "\x1c", "\u2028")]
    assert judge(texts, tmp_path, near=None) == [None, "duplicate", "duplicate", None, None, None]


def test_near_duplicates_are_found_as_often_as_promised(tmp_path: Path) -> None:
    pairs = [(written(seed), changed(written(seed), seed, 1 + seed % 6)) for seed in range(1500)]
    exact = [jaccard(*(shingles_of(" ".join(words), 5) for words in pair)) for pair in pairs]
    near = [number for number, value in enumerate(exact) if value >= 0.8]
    close = [number for number in near if exact[number] < 0.85]
    assert len(near) > 500
    assert len(close) > 100
    reasons = judge([" ".join(words) for pair in pairs for words in pair], tmp_path)
    found = [number for number in near if reasons[2 * number + 1] == "near-duplicate"]
    assert len(found) >= 0.95 * len(near)
    assert len(set(found) & set(close)) >= 0.95 * len(close)
    others = [number for number, value in enumerate(exact) if value < 0.8]
    assert all(reasons[2 * number + 1] is None for number in others), "candidates are verified exactly"


def test_datasketch_finds_the_same() -> None:
    datasketch = pytest.importorskip("datasketch", reason="datasketch is not installed")
    index = datasketch.MinHashLSH(threshold=0.8, params=bands_for(0.8), num_perm=128)
    near = NearTexts(0.8, 10_000)
    agreed = expected = 0
    for seed in range(300):
        first, second = (shingles_of(" ".join(words), 5) for words in (written(seed), changed(written(seed), seed, 2)))
        sketches = []
        for text in (first, second):
            sketch = datasketch.MinHash(num_perm=128, hashfunc=hash)
            sketch.update_batch([int(shingle) & 0xFFFFFFFF for shingle in text])
            sketches.append(sketch)
        index.insert(seed, sketches[0])
        near.add(first, near.signatures([first])[0], 2 * seed)
        if seed in index.query(sketches[1]) and jaccard(first, second) >= 0.8:
            expected += 1
            agreed += near.has_near(second, near.signatures([second])[0], 2 * seed + 1)
    near.close()
    assert expected > 200
    assert agreed >= 0.98 * expected


@given(st.lists(st.text(alphabet="ab \n", max_size=6), max_size=40), st.sampled_from([None, 0.8, 1.0]))
def test_the_first_of_equal_texts_is_kept(texts: list[str], near: float | None) -> None:
    seen, expected = set(), []
    for text in texts:
        plain = "\n".join(line.rstrip() for line in text.strip().splitlines())
        expected.append("duplicate" if plain in seen else None)
        seen.add(plain)
    reasons = judge(texts, Path(), near=near)
    assert [reason for reason in reasons if near is None or reason != "near-duplicate"] == [
        wanted for wanted, reason in zip(expected, reasons, strict=True) if near is None or reason != "near-duplicate"
    ]


def test_an_example_is_no_duplicate_of_itself(tmp_path: Path) -> None:
    made, run = filter_(), make_run(tmp_path)
    first = kdtool.Example("a", kdtool.Text(" ".join(written(0))))
    second = kdtool.Example("b", kdtool.Text(" ".join(changed(written(0), 0, 1))))
    for _ in range(2):
        assert list(made.kdtool_filter(run, [first])) == [None]
        assert list(made.kdtool_filter(run, [second])) == ["near-duplicate"]
    assert list(made.kdtool_filter(run, [replace(first, id="c")])) == ["duplicate"]
    repaired = replace(second, id="a")
    assert list(made.kdtool_filter(run, [repaired])) == [None], "the same example, repaired"
    assert list(made.kdtool_filter(run, [replace(repaired, source="elsewhere")])) == ["duplicate"]
    made.kdtool_close()


def test_another_text_of_the_run_begins_anew(tmp_path: Path) -> None:
    made, example = filter_(), kdtool.Example("a", kdtool.Text("x = 1"))
    for name in ("one", "other"):
        assert list(made.kdtool_filter(make_run(tmp_path / name), [example, replace(example, id="b")])) == [
            None, "duplicate",
        ]  # fmt: skip
    made.kdtool_close()


def test_the_oldest_are_forgotten_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtool_data.duplicates._REMEMBERED", 2000)
    texts = [" ".join(written(seed)) for seed in range(3000)]
    nearly = [" ".join(changed(written(seed), seed, 1)) for seed in range(3000)]
    assert judge(texts, tmp_path) == [None] * 3000
    reasons = judge([*texts, *nearly[1000:], *nearly[:1000]], tmp_path)[3000:]
    assert reasons[:2000].count("near-duplicate") >= 1990
    lost = reasons[2000:]
    assert lost == [None] * 1000, "texts that were forgotten"
