"""Students of every kind learn from a few stored tokens; losses that draws would mislead are refused."""

from __future__ import annotations

from typing import Any

import kdtool
import pytest

pytestmark = pytest.mark.slow

STUDENTS: dict[str, dict[str, Any]] = {
    "pruned": {},
    "narrower": {"student": {"use": "pruned", "layers": 3, "hidden": 48, "heads": 2, "feed_forward": 96}},
    "lora": {"transforms": {"lora": {"r": 4, "alpha": 8}}},
    "qlora": {"transforms": {"qlora": {"r": 4, "alpha": 8}}},
}


@pytest.fixture
def sampled(recipe: dict[str, Any]) -> dict[str, Any]:
    recipe |= {"signals": {"use": "sampled", "rows_per_shard": 4}, "control": False, "exporters": []}
    recipe["train"]["losses"] = {"forward-kl": {"weight": 1.0, "temperature": 2.0}, "ce": {"weight": 0.1}}
    recipe["evaluators"] = {"perplexity": {"documents": 2, "characters": 200}}
    return recipe


@pytest.mark.parametrize("kind", STUDENTS)
def test_students_learn_from_draws_as_from_all_logits(sampled: dict[str, Any], kind: str) -> None:
    changes = dict(STUDENTS[kind])
    sampled["train"] |= {"steps": 12, "transforms": changes.pop("transforms", {})}
    sampled |= changes
    found = {}
    for name, signals in {"samples": {**sampled["signals"], "samples": 400}, "exact": False}.items():
        results = kdtool.run({**sampled, "name": name, "signals": signals})
        (perplexity,) = (m.value for m in results.measurements if (m.name, m.subject) == ("perplexity", "student"))
        found[name] = perplexity
        assert results.arms[0].histories["train"][0].terms["forward-kl"].gradient_norm
    assert found["samples"] == pytest.approx(found["exact"], rel=0.05)


def test_losses_that_draws_would_mislead_are_refused(sampled: dict[str, Any]) -> None:
    for loss in ("reverse-kl", "jsd", "skew-kl", "skew-reverse-kl", "adaptive-kl", "tvd"):
        sampled["train"]["losses"] = {loss: {}}
        with pytest.raises(
            kdtool.RecipeError, match=rf"{loss}: needs logits, but the signals \(sampled\) offers sampled"
        ):
            kdtool.check(sampled)
    sampled["train"]["losses"] = {"forward-kl": {"temperature": 2.0}, "other": {"use": "forward-kl"}}
    with pytest.raises(kdtool.RecipeError, match=r"other: works at temperature 1, but a teacher's tokens"):
        kdtool.check(sampled)
