"""Rejections in a text's counts: by filter and reason, with the first examples."""

from __future__ import annotations

import kdtool
from kdtool._run.stages.text import Counts


def test_the_first_examples_of_each_reason_are_named() -> None:
    counts = Counts(["corpus"], {})
    examples = [kdtool.Example(f"id{number}", kdtool.Text("x")) for number in range(5)]
    counts.reject("filters.short", (("corpus", example, "too short") for example in examples))
    counts.reject("filters.short", [("corpus", examples[4], "empty")])
    summary = counts.summary()
    assert summary["rejected"] == {"filters.short": {"too short": 5, "empty": 1}}
    assert summary["corpora"][0]["rejected"] == {"too short": 5, "empty": 1}
    assert summary["rejected_examples"] == {
        "filters.short: too short": ["id0", "id1", "id2"],
        "filters.short: empty": ["id4"],
    }
    assert "rejected_examples" not in Counts(["corpus"], {}).summary()
