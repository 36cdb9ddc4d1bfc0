"""The licence gate: who takes what of whom, what is refused and in which words, and what is recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kdtool
import pytest
import yaml
from kdtool import LicenceTerms
from kdtool._cli import call
from kdtool._contract.licences import Transfer, judge_terms, published_name
from variants import variant

FREE = LicenceTerms("Apache-2.0", "https://example.org/free")
RULES = LicenceTerms("Rules 1.0", "https://example.org/rules", ("do no harm",))
OWN = LicenceTerms("Own Kind Only", "https://example.org/own", ("only for its own kind",), forbids=("signals", "text"))
NAMED = LicenceTerms("Named 3", restrictions=("name it so",), notices=("Built with Named",), name_prefix="Named")
OWN_NEEDED = "Own Kind Only, with permission for"

CASES = [
    # teacher's terms, what the student takes of it, terms of the student's own weights, what the recipe must say
    (FREE, ("signals",), None, ""),
    (FREE, ("weights", "signals"), RULES, ""),
    (RULES, ("signals",), None, "Rules 1.0"),
    (RULES, ("text",), FREE, "Rules 1.0"),
    (OWN, (), FREE, ""),
    (OWN, ("signals",), None, f"{OWN_NEEDED} signals"),
    (OWN, ("signals", "text"), RULES, f"{OWN_NEEDED} signals and text"),
    (OWN, ("weights",), None, "Own Kind Only"),
    (OWN, ("signals", "text"), OWN, "Own Kind Only"),
    (NAMED, ("signals",), OWN, "Named 3"),
]


@pytest.mark.parametrize(("teacher", "takes", "student", "needed"), CASES)
def test_teacher_ancestry_and_transfer_decide(
    teacher: LicenceTerms, takes: tuple[Transfer, ...], student: LicenceTerms | None, needed: str
) -> None:
    terms = {"teacher": teacher} | ({"student": student} if student else {})
    taken: dict[str, tuple[Transfer, ...]] = {"teacher": takes, "student": ("weights",)}
    own = {"student": student.licence} if student and student.restrictions else {}
    found, objections = judge_terms(terms, taken, own)
    assert found[0].needed == needed
    assert [objection.component for objection in objections] == (["teacher"] if needed else [])
    if needed:
        assert f'teacher: "{needed}"' in objections[0].remedy
        assert teacher.licence in objections[0].message
        again, none = judge_terms(terms, taken, {**own, "teacher": needed})
        assert not none
        assert again[0].acknowledged == needed
        # to have read the terms is not to have permission
        _, still = judge_terms(terms, taken, {**own, "teacher": teacher.licence})
        assert bool(still) == (needed != teacher.licence)


def test_what_names_nothing_is_refused_and_says_what_there_is() -> None:
    terms: dict[str, LicenceTerms] = {"teacher": FREE, "student": RULES}
    taken: dict[str, tuple[Transfer, ...]] = {"student": ("weights",)}
    _, objections = judge_terms(terms, taken, {"student": "Rules 1.0", "oracle": "Rules 1.0"})
    assert [objection.line for objection in objections] == ["oracle"]
    assert "components with terms: teacher, student" in objections[0].remedy
    _, objections = judge_terms(terms, taken, {"student": "Rules 2.0"})
    assert {objection.line for objection in objections} == {"student", ""}
    assert "comes under: Rules 1.0" in objections[0].message
    # what is there may be acknowledged though nothing asks for it
    assert judge_terms(terms, taken, {"student": "Rules 1.0", "teacher": "Apache-2.0"})[1] == ()


def test_published_name_begins_as_the_terms_ask() -> None:
    bound, _ = judge_terms({"teacher": NAMED}, {"teacher": ("signals",)}, {"teacher": "Named 3"})
    free, _ = judge_terms({"teacher": NAMED}, {}, {})
    assert published_name("small", bound) == "Named-small"
    assert published_name("Named-small", bound) == "Named-small"
    assert published_name("small", free) == "small"
    several = {name: LicenceTerms(name, name_prefix=name) for name in ("First", "Second", "Third", "Fourth")}
    bound, _ = judge_terms(several, dict.fromkeys(several, ("signals",)), {})
    assert published_name("small", bound) == "Fourth-Third-Second-First-small", "in every process"


@pytest.mark.parametrize(("name", "message"), [("Misfit", "must be LicenceTerms or None"), ("Broken", "KeyError")])
def test_terms_of_another_type_or_that_raise_name_the_component(
    name: str, message: str, recipe: dict[str, Any]
) -> None:
    recipe["teacher"] = variant(name)
    with pytest.raises(kdtool.PluginError, match=message) as refused:
        kdtool.plan(recipe)
    assert any(f"variants.py:{name}" in text for text in (str(refused.value), *refused.value.__notes__))


def test_forbidden_signals_are_refused_before_anything_is_loaded(recipe: dict[str, Any]) -> None:
    recipe["teacher"] = variant("Bound")
    for way in (kdtool.run, kdtool.check, kdtool.plan):
        with pytest.raises(kdtool.RecipeError) as refused:
            way(recipe)
        text = str(refused.value)
        assert "teacher: the Own Kind Only (https://example.org/own) forbids what this recipe does" in text
        assert "a model learns its predictions" in text
        assert "it has no weights of others" in text
        assert 'terms_acknowledged: {teacher: "Own Kind Only, with permission for signals"}' in text
    assert not Path("runs").exists()
    found = re.search(r"terms_acknowledged: (\{.*\})$", text, re.MULTILINE)
    assert found is not None, "a line to copy into the recipe"
    (licensed,) = kdtool.check({**recipe, "terms_acknowledged": yaml.safe_load(found.group(1))})["licences"]
    assert licensed["acknowledged"] == "Own Kind Only, with permission for signals"
    assert licensed["forbidden"] == ["signals"]


@pytest.mark.parametrize(
    ("changes", "takes", "needed"),
    [
        ({"student": "Cut"}, ["signals", "weights"], "Own Kind Only"),
        ({"losses": "count"}, [], ""),
        ({"losses": "count", "student": "Cut"}, ["weights"], "Own Kind Only"),
        ({"losses": "count", "corpus": "Answers"}, ["text"], "Own Kind Only, with permission for text"),
        ({"losses": "silent"}, [], ""),
    ],
)
def test_what_is_taken_follows_from_the_recipe(
    changes: dict[str, str], takes: list[str], needed: str, recipe: dict[str, Any]
) -> None:
    recipe["teacher"] = variant("Bound")
    for key in ("student", "corpus"):
        if key in changes:
            recipe[key] = variant(changes[key])
    losses = recipe["train"]["losses"]
    if changes.get("losses") == "count":
        losses["imitate"] = False
        recipe["signals"] = False
    if changes.get("losses") == "silent":
        losses["imitate"]["weight"] = 0
    if needed:
        with pytest.raises(kdtool.RecipeError, match=re.escape(f'teacher: "{needed}"')):
            kdtool.check(recipe)
        recipe["terms_acknowledged"] = {"teacher": needed}
    (licensed,) = kdtool.check(recipe)["licences"]
    assert licensed["transfers"] == takes


def test_acknowledged_terms_are_told_recorded_and_reported(recipe: dict[str, Any]) -> None:
    recipe |= {"teacher": variant("Allowed"), "seeds": [0], "terms_acknowledged": {"teacher": "Named 3"}}
    results = kdtool.run(recipe)
    (licensed,) = results.licences
    assert (licensed.transfers, licensed.forbidden, licensed.acknowledged) == (("signals",), (), "Named 3")
    plain = json.loads((results.folder / "results.json").read_text(encoding="utf-8"))
    assert plain["licences"][0]["terms"]["name_prefix"] == "Named"
    assert plain["licences"][0]["acknowledged"] == "Named 3"
    assert plain["recipe"]["terms_acknowledged"] == {"teacher": "Named 3"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["Named 3"], "terms_acknowledged: must be a mapping of components to licences"),
        ({"techer": "Named 3"}, "terms_acknowledged.techer: techer is not a component of this recipe with terms"),
        ({"teacher": "named"}, "terms_acknowledged.teacher: is 'named', but teacher comes under: Named 3"),
        ({"teachers": {"teacher": "Named 2"}}, "but teacher comes under: Named 3"),
        ({"teacher": False}, 'terms_acknowledged: {teacher: "Named 3"}'),
    ],
)
def test_wrong_acknowledgements_are_refused(value: Any, message: str, recipe: dict[str, Any]) -> None:
    recipe |= {"teacher": variant("Allowed"), "terms_acknowledged": value}
    with pytest.raises(kdtool.RecipeError, match=re.escape(message)):
        kdtool.check(recipe)


def test_several_teachers_are_named_by_their_paths(recipe: dict[str, Any]) -> None:
    del recipe["teacher"]
    recipe["teachers"] = {"big": variant("Allowed"), "own": variant("Bound")}
    recipe["train"]["losses"]["imitate"]["teacher"] = "big"
    with pytest.raises(kdtool.RecipeError, match=re.escape('terms_acknowledged: {teachers.big: "Named 3"}')):
        kdtool.check(recipe)
    for key in ("teachers.big", "big"):
        assert kdtool.check({**recipe, "terms_acknowledged": {key: "Named 3"}})["licences"][0]["acknowledged"]
    assert kdtool.check(recipe, {"terms_acknowledged.teachers.big": "Named 3"})["licences"][1]["transfers"] == []


def test_command_lists_licences_and_refuses_without_acknowledgement(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(json.dumps({**recipe, "teacher": variant("Allowed")}), encoding="utf-8")
    assert call(["check", str(file)]) == 2
    assert 'terms_acknowledged: {teacher: "Named 3"}' in capsys.readouterr().err
    assert call(["check", str(file), "--set", "terms_acknowledged.teacher=Named 3"]) == 0
    told = capsys.readouterr().out
    assert "teacher: licence Named 3; the student uses its predictions; acknowledged\n    name it so\n" in told
    assert "such as Named-toy" in told
