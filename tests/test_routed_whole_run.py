"""Teachers by language in whole runs: beside the student, recorded, and on text that the student writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kdtool
import pytest
from test_mixtures_whole_run import apart, second_folder, several, trained

__all__ = ["second_folder", "several"]  # fixtures

pytestmark = pytest.mark.slow

ROUTED = {"use": "routed", "teachers": {"teachers.one": ["python"], "teachers.two": ["*"]}}


def write_text(folder: Path, languages: list[str]) -> dict[str, Any]:
    """Write documents in these languages in turn, and return the corpus."""
    lines = [
        {"text": f"def f{at}(x):\n    return x + {at}\n" * 3, "language": languages[at % len(languages)]}
        for at in range(60)
    ]
    lines += [{"text": "x = 1\n" * 40, "language": "python", "split": split} for split in ("validation", "test")]
    (folder / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {"use": "jsonl", "files": [str(folder / "text.jsonl")]}


@pytest.fixture
def routed(several: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Four steps on documents in two languages, packed into common rows, each language with its teacher."""
    several["teachers"]["both"] = ROUTED
    several["train"]["losses"] = {"forward-kl": {"teacher": "both"}}
    return {**several, "corpus": write_text(tmp_path, ["python", "rust"])}


def test_recorded_and_beside_the_student_it_is_the_same_and_shares_are_noted(routed: dict[str, Any]) -> None:
    beside = kdtool.run(routed)
    recorded = kdtool.run({**routed, "name": "recorded", "signals": {"use": "states"}})
    assert apart(trained(beside), trained(recorded)) < 1e-5
    for results in (beside, recorded):
        (shares,) = [
            re.search(r"teachers.both: teachers.one (\S+)%, teachers.two (\S+)% of the tokens", note)
            for note in results.notes
            if "teachers.both" in note
        ]
        assert shares is not None
        assert all(45 < float(share) < 55 for share in shares.groups())
    assert {stage.name for stage in recorded.stages if stage.name.startswith("signals")} == {
        "signals/train-teachers.both"
    }


def test_text_of_one_language_is_taught_as_by_its_teacher_alone(routed: dict[str, Any], tmp_path: Path) -> None:
    routed["corpus"] = write_text(tmp_path, ["python"])
    routed["teachers"]["both"] = {"use": "routed", "teachers": {"teachers.one": ["python"], "teachers.two": ["*"]}}
    alone = kdtool.run(routed, {"train.losses.forward-kl.teacher": "one", "name": "alone"})
    assert apart(trained(kdtool.run(routed)), trained(alone)) < 1e-6


def test_a_change_of_a_routed_teacher_trains_again(routed: dict[str, Any], teacher_folder: Path) -> None:
    def fingerprints(recipe: dict[str, Any]) -> dict[str, str]:
        return {stage.name: str(stage.path) for stage in kdtool.plan(recipe)}

    other = json.loads(json.dumps(routed))
    other["teachers"]["two"]["dtype"] = "bfloat16"
    for recorded in ({}, {"signals": {"use": "states"}}):
        first, second = fingerprints({**routed, **recorded}), fingerprints({**other, **recorded})
        assert first["rows/train"] == second["rows/train"]
        assert first["phases/student-seed0-train"] != second["phases/student-seed0-train"]


def test_the_student_s_own_text_has_the_teacher_of_its_prompt(routed: dict[str, Any], tmp_path: Path) -> None:
    trainer = {**routed["trainer"], "on_policy": {"fraction": 1.0, "tokens": 8}}
    on_policy = {**routed, "trainer": trainer, "corpus": write_text(tmp_path, ["rust"]), "name": "routed"}
    on_policy["teachers"] = {
        **routed["teachers"],
        "both": {**ROUTED, "teachers": {"teachers.one": ["c"], "teachers.two": ["*"]}},
    }
    on_policy["corpus"] = write_text(tmp_path, ["rust", "rust", "rust", "c"])
    mixed = kdtool.run(on_policy)
    one, two = (
        kdtool.run(on_policy, {"train.losses.forward-kl.teacher": name, "name": name}) for name in ("one", "two")
    )
    assert apart(trained(mixed), trained(one)) > 1e-4
    assert apart(trained(mixed), trained(two)) > 1e-4


def test_an_unknown_language_is_refused_with_the_others(routed: dict[str, Any], tmp_path: Path) -> None:
    routed["teachers"]["both"] = {"use": "routed", "teachers": {"teachers.one": ["python"], "teachers.two": ["c"]}}
    with pytest.raises(kdtool.KdtoolError) as caught:
        kdtool.run(routed)
    text = str(caught.value)
    assert re.search(r"no teacher has the values 'rust' \(\d+ documents\) of 'language'", text)
    assert "teachers.teachers.two: no document has the values 'c'" in text
