"""Recipes: reading, composing, and all errors at once with their places."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.assemble import assemble
from kdtool._recipe.model import acknowledgements
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import read_document, read_scalar
from plugin_site import install
from variants import variant

BASE = """\
name: base
corpus: {use: words}
rows: {use: packed, length: 512}
teacher: {use: smollm2, weights: auto}
student: {use: pruned, layers: 10}
trainer: {use: standard, batch: 4}
train: {losses: {forward-kl: {weight: 0.9}, ce: {weight: 0.1}}, steps: 20}
"""


def _write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("no", "no"), ("010", 10), ("12:30:00", "12:30:00"), ("true", True), ("null", None), ("~", None),
        ("-3", -3), ("0x1f", "0x1f"), ('"3"', "3"), ("[0, 1, 2]", [0, 1, 2]), ("1_000", "1_000"), ("yes", "yes"),
        (".5", 0.5), ("a\u00a0b", "a\u00a0b"), ("'a:\u00a0b'", "a:\u00a0b"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert read_scalar(text) == value
    assert read_document(f"key: {text}", "f", Path()).plain() == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "2:1: a: is written twice, first in line 1"),
        ("a: &x 1\nb: *x", "anchors"),
        ("a: [1", "cannot be read as YAML"),
        ("- a", "mapping"),
        ("", "is empty"),
        ("a: \0", "cannot be read as YAML"),
        ("a:\n\tb: 1", "2:1: cannot be read as YAML: found character that cannot start any token\n      this is a tab"),
        ("{" * 30, "nested"),
        ("a: !!python/object:os.system 1", "tags"),
        ("? [a]\n: 1", "plain word"),
        ("a: 1\n---\nb: 1", "2:1: starts a second YAML document; a recipe is one document"),
    ],
)
def test_what_is_refused_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(kdtool.RecipeError, match=r"recipe\.yaml") as caught:
        read_document(text, "recipe.yaml", Path())
    assert message in str(caught.value)


def test_all_mistakes_come_at_once_sorted_by_place(tmp_path: Path) -> None:
    text = BASE.replace("name: base", "name: 'a b'\nseds: [1]").replace("steps: 20", "steps: -1")
    text = text.replace("weight: 0.9", "weight: heavy") + "evaluators: 7\ncontrol: {match: money}\n"
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, text))
    lines = [problem.line for problem in caught.value.problems]
    keys = {problem.key for problem in caught.value.problems}
    assert lines == sorted(lines)
    assert keys == {"name", "seds", "train.losses.forward-kl.weight", "train.steps", "evaluators", "control.match"}
    assert "did you mean 'seeds'" in str(caught.value)


def test_layer_that_changes_the_plugin_drops_its_options_and_keeps_the_cores(tmp_path: Path) -> None:
    path = _write(tmp_path, BASE)
    recipe = load_recipe(path, {"teacher.use": "causal-lm", "teacher.model": "DIR", "train.losses.ce.use": "./x.py:Y"})
    assert dict(recipe.shared[2].options) == {"model": "DIR"}
    ce = next(spec for spec in recipe.phases[0].losses if spec.name == "ce")
    assert (ce.use, ce.weight) == ("./x.py:Y", 0.1)


def test_extends_layers_switch_off_and_place_files(tmp_path: Path) -> None:
    _write(tmp_path, BASE, "base.yaml")
    text = "extends: base.yaml\nteacher: causal-lm\ntrain: {losses: {ce: false}}\nseeds: [4, 5]\n"
    recipe = load_recipe(_write(tmp_path, text))
    assert [spec.name for spec in recipe.phases[0].losses] == ["forward-kl"]
    assert recipe.seeds == (4, 5)
    place = recipe.place(("rows", "length"))
    assert place is not None
    assert Path(place.file).name == "base.yaml"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("named", ["own", "./own", "gone"])
def test_a_bare_name_is_an_installed_recipe_unless_a_file_has_it(
    named: str, there: bool, tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"__init__.py": "", "own.yaml": "extends: below.yaml\nname: ours", "below.yaml": BASE}
    place = {f"x_recipes/{name}": text for name, text in files.items()}
    install(site, "x-recipes", "[kdtool.recipes]\nown = x_recipes\n", place)
    monkeypatch.chdir(tmp_path)
    if there:
        _write(tmp_path, BASE.replace("base", "file"), named)
    path = _write(tmp_path, f"extends: {named}\nseeds: [5]")
    if there or named == "own":
        assert {load_recipe(each).name for each in (path, Path(named))} == {"file" if there else "ours"}
        return
    with pytest.raises(kdtool.RecipeError, match=f"recipe {named!r} not found: no file {tmp_path / named}") as caught:
        load_recipe(path)
    assert "own" in caught.value.problems[0].remedy


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "extends: b.yaml", "a.yaml")
    with pytest.raises(kdtool.RecipeError, match="extends itself"):
        load_recipe(_write(tmp_path, "extends: a.yaml", "b.yaml"))


def test_phases_keep_their_order_and_inherit_the_trainer(tmp_path: Path) -> None:
    text = BASE.replace(
        "train: {losses: {forward-kl: {weight: 0.9}, ce: {weight: 0.1}}, steps: 20}",
        "train:\n  distil: {loss: forward-kl, steps: 2}\n  tune: {losses: [ce], steps: 3, trainer: {batch: 8}}",
    )
    recipe = load_recipe(_write(tmp_path, text))
    assert [(phase.name, phase.steps) for phase in recipe.phases] == [("distil", 2), ("tune", 3)]
    trainers = [phase.trainer for phase in recipe.phases]
    assert [dict(spec.options) if spec else None for spec in trainers] == [{"batch": 4}, {"batch": 8}]
    assert recipe.phases[0].losses[0].path == "train.distil.loss"


def test_names_of_entries_may_be_keys_of_the_recipe(recipe: dict[str, Any]) -> None:
    recipe["train"]["losses"] = {
        "rows": recipe["train"]["losses"]["count"],
        "trainer": recipe["train"]["losses"]["imitate"],
    }
    recipe["evaluators"] = {"student": recipe["evaluators"]["nats"]}
    found = load_recipe(recipe)
    assert [(spec.name, spec.kind) for spec in found.phases[0].losses] == [("rows", "loss"), ("trainer", "loss")]
    assert kdtool.run({**recipe, "seeds": [0], "control": False}).measurements


@pytest.mark.skipif(sys.platform == "win32", reason="other words, and no devices")
@pytest.mark.parametrize(
    ("base", "reason"),
    [("\0", "embedded null"), ("/dev/zero", "a device"), (".", "directory"), ("x" * 5000, "too long")],
)
def test_what_is_no_file_is_not_read(base: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(kdtool.RecipeError, match=f"cannot be read: .*{reason}"):
        load_recipe(_write(tmp_path, f"extends: {json.dumps(base)}\n"))


def test_schedule_is_evaluated_over_the_phase() -> None:
    schedule = kdtool.Schedule(1.0, 0.0, 0.2, 0.6, "cosine")
    assert [schedule.at(x) for x in (0.0, 0.1, 0.6, 1.0)] == [1.0, 1.0, 0.0, 0.0]
    assert schedule.at(0.4) == pytest.approx(0.5)
    assert kdtool.Schedule(1.0, 0.0, shape="step").at(0.99) == 1.0


def test_loss_whose_need_nobody_offers_is_refused_with_the_remedy(recipe: dict[str, Any]) -> None:
    toy = recipe["teacher"]["use"].rpartition(":")[0]
    offers = 'offers = frozenset({"logits"})\n\n    def records'
    text = Path(toy).read_text(encoding="utf-8").replace(offers, "def records").replace("class Cache", "class Empty")
    Path("toy_empty.py").write_text(text, encoding="utf-8")
    recipe["signals"] = {"use": "./toy_empty.py:Empty"}
    with pytest.raises(kdtool.RecipeError, match=r"needs logits, but the signals .* offers nothing"):
        kdtool.run(recipe)
    del recipe["signals"], recipe["teacher"]
    with pytest.raises(kdtool.RecipeError, match="add `teacher"):
        kdtool.run(recipe)


def test_a_cache_records_what_it_can_make_of_what_a_teacher_offers(recipe: dict[str, Any]) -> None:
    recipe |= {"teacher": variant("Terse"), "control": False}
    recipe["train"]["losses"] = {"likely": variant("Likely")}
    assert kdtool.check(recipe, {"signals": variant("Likeliest")})
    with pytest.raises(kdtool.RecipeError, match=r"signals: .* is made of logits, but teacher .* offers top-k"):
        kdtool.run(recipe, {"signals": variant("Drawn")})


@pytest.mark.parametrize("apart", [False, True], ids=["in one phase", "in two phases"])
def test_losses_that_share_a_teacher_s_tokens_have_one_temperature(recipe: dict[str, Any], apart: bool) -> None:
    cold, warm = (variant("Likely", signals=["sampled", "logits"], at=at) for at in (1.0, 2.0))
    own = recipe["train"]["losses"]["count"]
    losses = [{"cold": cold, "own": own}, {"warm": warm, "own": own}]
    phases = {f"p{i}": {"losses": each, "steps": 1} for i, each in enumerate(losses)}
    recipe["train"] = phases if apart else {"losses": {**losses[0], **losses[1]}, "steps": 1}
    kdtool.check({**recipe, "signals": False})
    with pytest.raises(kdtool.RecipeError, match=r"(?s)warm: works at temperature 2, .* cold works at 1"):
        kdtool.run({**recipe, "signals": variant("Drawn")})


def test_control_without_a_loss_of_its_own_is_refused(recipe: dict[str, Any]) -> None:
    del recipe["train"]["losses"]["count"]
    with pytest.raises(kdtool.RecipeError, match="needs a loss that works without a teacher"):
        kdtool.run(recipe)


@pytest.mark.parametrize(
    ("below", "settings", "found"),
    [
        ("", {"train.losses": "[ce]"}, {"loss": ["ce"]}),
        ("evaluators: {one: {}, two: {}}\n", {"evaluators": "[two, three]"}, {"evaluator": ["two", "three"]}),
        ("evaluators: [one]\n", {"evaluators": ["two"], "evaluators.three": {}}, {"evaluator": ["two", "three"]}),
        ("evaluators: [one]\n", {"evaluators": {"two": {}}}, {"evaluator": ["one", "two"]}),
        ("exporters: [one]\n", {"exporters": "[]"}, {"exporter": []}),
        ("", {"corpora": "[other]"}, {"corpus": ["other"]}),
    ],
)
def test_a_list_replaces_what_was_there_and_a_map_is_laid_over_it(
    tmp_path: Path, below: str, settings: dict[str, Any], found: dict[str, list[str]]
) -> None:
    layers = [dict([setting]) for setting in settings.items()]
    path = _write(tmp_path, BASE + below)
    if len(layers) > 1:
        path = _write(tmp_path, f"extends: recipe.yaml\n{json.dumps(layers[0])[1:-1]}\n", "above.yaml")
    recipe = load_recipe(path, layers[-1])
    ((kind, names),) = found.items()
    specs = (*recipe.shared, *recipe.phases[0].losses)
    assert [spec.name for spec in specs if spec.kind == kind] == names
    assert (
        below or settings != {"train.losses": "[ce]"} or [spec.weight for spec in specs if spec.kind == kind] == [1.0]
    )


@pytest.mark.parametrize("items", ["one, one", "1", "one, {two: {}}"])
def test_a_list_of_anything_but_different_names_is_refused(tmp_path: Path, items: str) -> None:
    text = BASE.replace("losses: {forward-kl: {weight: 0.9}, ce: {weight: 0.1}}", f"losses: [{items}]")
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, f"{text}evaluators: [{items}]\n"))
    found = [(problem.key, problem.line) for problem in caught.value.problems]
    assert found == [("train.losses", 7), ("evaluators", 8)]
    assert "must be a list of different names" in str(caught.value)
    assert "NAME: {use: …}" in str(caught.value)
    assert "Node" not in str(caught.value)


WHOLE = "must be a whole number from 1 to 1,000,000,000, not"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.losses.forward-kl": False, "train.losses.ce": False}, "train.losses: is missing"),
        ({"corpus": False}, "corpora: is missing"),
        ({"student": False}, "student: is missing"),
        ({"trainer": False}, "\n  trainer: is missing"),
        ({"rows": False}, "\n  rows: is missing"),
        ({"train.rows": False}, "train.rows: is missing"),
        ({"train": False}, "train: needs at least one phase"),
        ({"train": "5"}, "train: must be a mapping with losses and steps, not 5"),
        ({"train.steps": "ten"}, f"train.steps: {WHOLE} 'ten'"),
        ({"train.steps": ""}, f"train.steps: {WHOLE} an empty value"),
        ({"train.step": 5}, "not 5\n      did you mean 'steps'?"),
        ({"train.x": 5}, "train.x: unknown key; "),
        ({"seeds": "[0, 0]"}, "such as [0, 1, 2], not [0, 0]"),
        ({"seeds": "[0"}, "seeds: cannot be read as YAML: did not find expected ',' or ']'"),
        ({"claims": "[{measurement: x, source: y}]"}, "claims: must be a list of figures, such as [{measurement: "),
        ({"claims": "{x: 1}"}, "claims: must be a list of figures, such as [{measurement: "),
        ({"corpus.share": 2}, "corpus.share: must be a number above 0 and at most 1, not 2"),
        ({"student.use": 7}, "student.use: must be"),
        ({"corpora": "7"}, "corpora: must be"),
        ({"train.losses": "{ce: 7}"}, "train.losses.ce: must be"),
        ({"rows": "7"}, "rows: must be"),
    ],
)
def test_a_mistake_shows_rule_and_value(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """Keys that are switched off are missing; those that are wrong are not."""
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, BASE), settings)
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)


def test_all_that_a_recipe_lacks_is_named_at_once_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, "name: x\n"))
    assert {problem.key for problem in caught.value.problems} == {"corpora", "student", "train", "rows", "trainer"}
    with pytest.raises(kdtool.RecipeError, match=r"train\.steps: is missing; train needs a whole number from 1 to 1,"):
        load_recipe(_write(tmp_path, BASE.replace(", steps: 20}", "}")))


BIG, SMALL = "big: {use: starcoder2}", "small: {use: smollm2}"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (f"teachers: {{{BIG}}}", {"teacher": "smollm2", "big": "starcoder2"}),
        (f"teachers: {{{BIG}, {SMALL}}}\nteacher: false", {"big": "starcoder2", "small": "smollm2"}),
        (f"teacher: null\nteachers: {{{BIG}}}", {"big": "starcoder2"}),
        ("teachers: false\nteacher: starcoder2", {"teacher": "starcoder2"}),
        ("teacher: null", {}),
    ],
)
def test_an_inherited_singular_gives_way_to_the_plural_and_the_other_way_round(
    tmp_path: Path, own: str, expected: dict[str, str]
) -> None:
    _write(tmp_path, BASE, "base.yaml")
    found = load_recipe(_write(tmp_path, f"extends: base.yaml\n{own}\n"))
    assert {spec.name: spec.use for spec in found.shared if spec.kind == "teacher"} == expected


@pytest.mark.parametrize("section", ["train", "train.first", "control"])
def test_singular_and_plural_exclude_each_other_in_phases_and_the_control(tmp_path: Path, section: str) -> None:
    def recipe(losses: str) -> Path:
        own = f"{{{losses}, steps: 20}}"
        train = {"train": own, "train.first": f"{{first: {own}}}"}.get(section, "{losses: [ce], steps: 20}")
        control = f"{{{losses}}}" if section == "control" else "false"
        return _write(tmp_path, BASE.partition("train:")[0] + f"train: {train}\ncontrol: {control}\n")

    with pytest.raises(
        kdtool.RecipeError, match=rf"{section}\.loss: cannot be combined with 'losses': use one of them"
    ):
        load_recipe(recipe("loss: ce, losses: {focal: {}}"))
    found = load_recipe(recipe("loss: false, losses: {focal: {}}"))
    phases = found.control.phases if section == "control" and found.control else found.phases
    assert [spec.name for spec in phases[0].losses] == ["focal"]


def test_one_inherited_phase_gives_way_to_several_and_the_other_way_round(tmp_path: Path) -> None:
    _write(tmp_path, BASE, "base.yaml")
    phases = "{train: false, first: {losses: [ce], steps: 1}, second: {losses: [ce], steps: 2}}"
    several = load_recipe(_write(tmp_path, f"extends: base.yaml\ntrain: {phases}\n", "several.yaml"))
    assert [phase.name for phase in several.phases] == ["first", "second"]
    back = "{first: false, second: false, train: {losses: [ce], steps: 3}}"
    one = load_recipe(_write(tmp_path, f"extends: several.yaml\ntrain: {back}\n"))
    assert [(phase.name, phase.steps) for phase in one.phases] == [("train", 3)]


SETTINGS = """
from typing import Annotated, Literal
import kdtool
from pydantic import Field, field_validator
from toy import Corpus

class Settings(Corpus):
    class Config(Corpus.Config):
        names: Annotated[list[str], Field(min_length=1)] = ["a"]
        layers: Annotated[int, Field(ge=1)] | list[int] | None = None
        how: Literal["fast", "slow"] = "fast"
        pair: tuple[float, float] = (0.5, 0.5)
        title: str = ""
        learning_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
        schedule: kdtool.Schedule | None = None

        @field_validator("title")
        @classmethod
        def refuse_shouting(cls, title: str) -> str:
            if title.isupper():
                raise ValueError("shouts")
            return title
"""


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("names", "nope.jsonl", "must be a non-empty list of texts, not 'nope.jsonl'"),
        ("layers", "all", "must be a whole number of at least 1 or a list of whole numbers, not 'all'"),
        ("how", "quick", "must be 'fast' or 'slow', not 'quick'"),
        ("pair", [1], "must be a list of 2 entries, not [1]"),
        ("title", 5, "must be text, not 5"),
        ("title", "A", "shouts (found 'A')"),
        ("learning_rate", 0, "must be a number above 0 and below 1, not 0"),
        ("lr", 0.2, "unknown setting of corpus '{use}'\n      did you mean 'learning_rate'?"),
        ("schedule.end", {"start": 1}, "is missing; corpus '{use}' needs a number of at"),
        ("schedule", 5, "must be a mapping with the keys start, end, begin, until, shape, not 5"),
    ],
)
def test_a_mistake_in_a_setting_shows_rule_and_value_in_words_of_a_recipe(
    recipe: dict[str, Any], key: str, value: Any, message: str
) -> None:
    Path("settings.py").write_text(SETTINGS, encoding="utf-8")
    recipe["corpus"] = {"use": "./settings.py:Settings", key.partition(".")[0]: value}
    with pytest.raises(kdtool.RecipeError) as caught:
        assemble(load_recipe(recipe))
    assert len(caught.value.problems) == 1
    assert f"recipe: corpus.{key}: {message.replace('{use}', './settings.py:Settings')}" in str(caught.value)


@pytest.mark.parametrize("terms", ["{teacher: L}", "{teachers.teacher: L}", "{teachers: {teacher: L}}"])
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"teacher.variant": "python"}, True),
        ({"teacher.use": "smollm2"}, True),
        ({"teacher.use": "codellama"}, False),
        ({"teacher": "codellama"}, False),
        ({"student.use": "gpt"}, True),
        ({"teacher.use": "codellama", "terms_acknowledged.teacher": "M"}, True),
    ],
)
def test_an_acknowledged_licence_is_that_of_the_plugin(
    tmp_path: Path, terms: str, settings: dict[str, Any], kept: bool
) -> None:
    path = _write(tmp_path, f"{BASE}terms_acknowledged: {terms}\n")
    found = load_recipe(path, settings)
    assert any(dict(acknowledgements(found.data["terms_acknowledged"])).values()) == kept
    note = "teacher is now 'codellama': the acknowledgement of 'L' is dropped"
    assert found.notes == ((note,) if "codellama" in settings.values() else ())
