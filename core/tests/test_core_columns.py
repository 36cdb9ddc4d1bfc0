"""Columns of tokens: what annotators say comes into rows and fingerprints; what does not fit is refused early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._run.stages.row_files import StoredRows

TOY = Path(__file__).with_name("toy.py")

OWN = f'''
import sys
sys.path.insert(0, {str(TOY.parent)!r})
import kdtool, toy


class Vowels(kdtool.Annotator):
    """Tells vowels from the rest."""

    columns = frozenset({{"vowel"}})

    class Config(kdtool.Config):
        letters: str = "aeiou"
        """The letters to mark."""

    def kdtool_annotate(self, example):
        return {{"vowel": [int(letter in self.config.letters) for letter in example.body.text]}}


class Bytewise(Vowels):
    """Gives a column that kdtool itself gives."""

    columns = frozenset({{"byte_end"}})


class Wrong(Vowels):
    """Forgets the last character."""

    def kdtool_annotate(self, example):
        return {{"vowel": [0] * (len(example.body.text) - 1)}}


class Deaf(toy.Packer):
    """Does not carry what annotators say."""

    carries_annotations = False


class Sung(toy.Count):
    """A loss that reads a column."""

    columns = frozenset({{"vowel", "twice"}})


class Heard(kdtool.Weighting):
    """A weighting that reads a column."""

    columns = frozenset({{"vowel"}})
    def kdtool_token_weight(self, chunk): ...
'''


@pytest.fixture(autouse=True)
def _own() -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")


def annotated(recipe: dict[str, Any], name: str = "Vowels", **settings: Any) -> dict[str, Any]:
    return {**recipe, "annotators": {"vowels": {"use": f"./own.py:{name}", **settings}}}


def problems(recipe: dict[str, Any]) -> list[str]:
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.check(recipe)
    return [f"{problem.key}: {problem.message}; {problem.remedy}" for problem in caught.value.problems]


def rows(results: kdtool.Results, name: str = "rows") -> StoredRows:
    return StoredRows(next(stage.path for stage in results.stages if stage.name == name), "")


def test_what_annotators_say_comes_to_the_tokens_of_all_rows(recipe: dict[str, Any]) -> None:
    found = rows(kdtool.run(annotated(recipe)))
    assert len(found) > 1
    for row in (found[index] for index in range(len(found))):
        assert row.columns.keys() == {"vowel", "twice"}
        assert row.columns["vowel"] == [int(chr(token) in "aeiou") for token in row.input_ids]


def test_only_where_there_are_annotators_rows_depend_on_them(recipe: dict[str, Any]) -> None:
    def fingerprints(given: dict[str, Any]) -> dict[str, str]:
        return {stage.name: str(stage.path) for stage in kdtool.plan(given)}

    plain, none = fingerprints(recipe), fingerprints({**recipe, "annotators": False})
    first, second = fingerprints(annotated(recipe)), fingerprints(annotated(recipe, letters="aeiouy"))
    assert plain == none
    assert first["text"] == second["text"] == plain["text"]
    assert len({plain["rows"], first["rows"], second["rows"]}) == 3
    assert first["signals/teacher"] != second["signals/teacher"]
    nodes = json.loads((kdtool.run(annotated(recipe)).folder / "graph.json").read_text(encoding="utf-8"))["nodes"]
    (part,) = nodes["rows"]["parts"]["annotators"]
    assert part["config"] == {"letters": "aeiou"}
    assert part["source"], "the code of a local file"


def test_a_phase_may_have_annotators_of_its_own(recipe: dict[str, Any]) -> None:
    losses = {"count": recipe["train"]["losses"]["count"]}
    first = {"losses": losses, "steps": 2}
    second = {**first, "annotators": {"y": {"use": "./own.py:Vowels", "letters": "y"}}}
    results = kdtool.run({**annotated(recipe), "control": False, "train": {"first": first, "second": second}})
    seen = [set(rows(results, name)[0].columns["vowel"]) for name in ("rows", "rows/second")]
    assert seen == [{0, 1}, {0}], "there is no y in these rows"


@pytest.mark.parametrize("where", ["losses", "weightings"])
def test_a_column_that_nobody_gives_is_refused_with_the_key_to_add(where: str, recipe: dict[str, Any]) -> None:
    recipe["control"] = False
    recipe["train"].setdefault(where, {})["sung"] = {"use": f"./own.py:{'Sung' if where == 'losses' else 'Heard'}"}
    (problem,) = problems(recipe)
    assert problem.startswith(f"train.{where}.sung: requires column 'vowel', but no packer or annotator provides it")
    assert "(there are: twice)" in problem
    assert "annotators: {vowel: {}}" in problem
    kdtool.check(annotated(recipe))


def test_the_control_s_own_losses_need_columns_too(recipe: dict[str, Any]) -> None:
    recipe["control"] = {"match": "tokens", "losses": {"sung": {"use": "./own.py:Sung"}}}
    (problem,) = problems(recipe)
    assert problem.startswith("control.losses.sung: requires column 'vowel'")


def test_annotations_that_would_not_come_to_the_tokens_are_refused(recipe: dict[str, Any]) -> None:
    deaf = {**annotated(recipe), "rows": {"use": "./own.py:Deaf"}}
    assert "annotators.vowels: describes text, but the packer './own.py:Deaf' does not carry" in problems(deaf)[0]
    twice = {**recipe, "annotators": {name: {"use": "./own.py:Vowels"} for name in ("a", "b")}}
    assert "annotators.b: provides the column 'vowel', which annotators.a provides too" in problems(twice)[0]
    assert (
        "provides the column 'byte_end', which kdtool itself provides too" in problems(annotated(recipe, "Bytewise"))[0]
    )


def test_an_annotator_that_forgets_a_character_is_named(recipe: dict[str, Any]) -> None:
    with pytest.raises(
        kdtool.PluginError, match=r"returned vowel \[\d+\] for example 'd\d+'; expected one number"
    ) as caught:
        kdtool.run(annotated(recipe, "Wrong"))
    assert "annotator 'annotators.vowels' (./own.py:Wrong)" in str(caught.value.__notes__)
