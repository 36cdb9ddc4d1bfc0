"""Columns of tokens: labels of weightings enter rows and fingerprints; what does not fit is refused early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.stages.row_files import StoredRows
from toy_recipe import Recipe

OWN = """
import kdtool, toy


class Vowels(kdtool.Weighting):
    columns = frozenset({"vowel"})

    class Config(kdtool.Config):
        letters: str = "aeiou"
        power: int = 1

    def kdtool_token_weight(self, chunk): ...

    def kdtool_annotate(self, example):
        return {"vowel": [int(letter in self.config.letters) for letter in example.body.text]}


class Keyed(Vowels):
    def __init__(self, config):
        super().__init__(config)
        self.label_key = config.letters


class Twice(kdtool.Weighting):
    columns = frozenset({"twice"})
    def kdtool_token_weight(self, chunk): ...


class Bytewise(Vowels):
    columns = frozenset({"byte_end"})


class Wrong(Vowels):
    def kdtool_annotate(self, example):
        return {"vowel": [0] * (len(example.body.text) - 1)}


class Deaf(toy.Packer):
    carries_annotations = False


class Sung(toy.Count):
    columns = frozenset({"vowel", "twice"})


class Heard(kdtool.Weighting):
    columns = frozenset({"vowel"})
    def kdtool_token_weight(self, chunk): ...
"""


@pytest.fixture(autouse=True)
def _own() -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")


def labelled(recipe: Recipe, name: str = "Vowels", **settings: Any) -> Recipe:
    return {**recipe, "train": {**recipe["train"], "weightings": {"vowels": {"use": f"./own.py:{name}", **settings}}}}


def problems(recipe: Recipe) -> list[str]:
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.check(recipe)
    return [f"{problem.key}: {problem.message}; {problem.remedy}" for problem in caught.value.problems]


def rows(results: kdtool.Results, name: str = "rows/train") -> StoredRows:
    return StoredRows(next(stage.path for stage in results.stages if stage.name == name), "")


def test_labels_of_characters_reach_the_tokens_of_all_rows(recipe: Recipe) -> None:
    found = rows(kdtool.run(labelled(recipe)))
    assert len(found) > 1
    for row in (found[index] for index in range(len(found))):
        assert row.columns.keys() == {"vowel", "twice"}
        assert row.columns["vowel"] == [int(chr(token) in "aeiou") for token in row.input_ids]


def test_rows_depend_on_weightings_that_label_text_and_on_no_others(recipe: Recipe) -> None:
    def paths(given: Recipe) -> dict[str, str]:
        return {stage.name: str(stage.path) for stage in kdtool.plan(given)}

    plain, other = paths(recipe), paths(labelled(recipe, "Twice"))
    first, second = paths(labelled(recipe)), paths(labelled(recipe, letters="aeiouy"))
    assert plain["rows"] == other["rows"]
    assert first["text"] == second["text"] == plain["text"]
    assert len({plain["rows"], first["rows/train"], second["rows/train"]}) == 3
    assert first["signals/train-teacher"] != second["signals/train-teacher"]
    nodes = json.loads((kdtool.run(labelled(recipe)).folder / "graph.json").read_text(encoding="utf-8"))["nodes"]
    (part,) = nodes["rows/train"]["parts"]["annotations"]
    assert part["config"] == {"letters": "aeiou", "power": 1}
    assert part["source"], "the code of a local file"


def test_settings_without_effect_on_labels_keep_rows_and_signals(recipe: Recipe) -> None:
    runs = [kdtool.plan(labelled(recipe, "Keyed", power=power)) for power in (1, 2)]
    first, second = ({stage.name: stage.path for stage in run} for run in runs)
    changed = {name for name, path in first.items() if second[name] != path}
    assert not {name for name in changed if name.startswith(("text", "rows", "signals"))}
    assert any(name.startswith("phases") for name in changed)
    letters = {stage.name: stage.path for stage in kdtool.plan(labelled(recipe, "Keyed", letters="y"))}
    assert letters["rows/train"] != first["rows/train"]


def test_each_phase_labels_its_own_rows(recipe: Recipe) -> None:
    first, second = (labelled(recipe, letters=letters)["train"] for letters in ("aeiou", "y"))
    results = kdtool.run({**recipe, "control": False, "train": {"first": first, "second": second}})
    seen = [set(rows(results, name)[0].columns["vowel"]) for name in ("rows/first", "rows/second")]
    assert seen == [{0, 1}, {0}], "there is no y in these rows"


@pytest.mark.parametrize(("where", "name"), [("losses", "Sung"), ("weightings", "Heard")])
def test_a_column_that_nobody_gives_is_refused(where: str, name: str, recipe: Recipe) -> None:
    recipe["control"] = {"match": "tokens", "losses": {"sung": {"use": "./own.py:Sung"}}}
    recipe["train"].setdefault(where, {})["sung"] = {"use": f"./own.py:{name}"}
    own, problem = problems(recipe)
    assert problem.startswith(
        f"train.{where}.sung: requires column 'vowel', which neither packer nor weighting provides (there are: twice)"
    )
    assert own.startswith("control.losses.sung: requires column 'vowel'"), "the control's own losses need columns too"
    recipe["train"].setdefault("weightings", {})["vowels"] = {"use": "./own.py:Vowels"}
    kdtool.check({**recipe, "control": False})


def test_labels_that_would_not_reach_the_tokens_are_refused(recipe: Recipe) -> None:
    twice = labelled(recipe)
    twice["train"]["weightings"]["b"] = {"use": "./own.py:Vowels"}
    deaf = {**labelled(recipe), "rows": {"use": "./own.py:Deaf"}}
    for wrong, message in (
        (deaf, "train.weightings.vowels: labels text, but the packer './own.py:Deaf' does not"),
        (twice, "train.weightings.b: provides the column 'vowel', which train.weightings.vowels"),
        (labelled(recipe, "Bytewise"), "provides the column 'byte_end', which kdtool itself provides too"),
    ):
        assert message in problems(wrong)[0]


def test_a_weighting_that_forgets_a_character_is_named(recipe: Recipe) -> None:
    with pytest.raises(
        kdtool.PluginError, match=r"returned vowel \[\d+\] for example 'd\d+'; expected one number"
    ) as caught:
        kdtool.run(labelled(recipe, "Wrong"))
    assert "weighting 'train.weightings.vowels' (./own.py:Wrong)" in str(caught.value.__notes__)
