"""Recipes: reading, composing, and all errors at once with their places."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._assembly.assemble import assemble
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import read_document, read_scalar

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
        ("a:\n  \tb: 1", "this is a tab; indent by spaces"),
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


@pytest.mark.parametrize(("key", "told"), [("step", "did you mean 'steps'?"), ("x", "keys of a phase: ")])
def test_a_setting_that_is_no_key_of_a_phase_is_not_taken_for_a_phase_alone(key: str, told: str) -> None:
    with pytest.raises(kdtool.RecipeError, match=rf"train\.{key}: unknown key; [^\n]*, not 5\n +{re.escape(told)}"):
        load_recipe({"corpus": "c", "train": {"losses": ["ce"], "steps": 1}}, {f"train.{key}": 5})


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


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "extends: b.yaml", "a.yaml")
    with pytest.raises(kdtool.RecipeError, match="extends itself"):
        load_recipe(_write(tmp_path, "extends: a.yaml", "b.yaml"))


def test_missing_recipe_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(kdtool.RecipeError, match=r"nothing\.yaml' not found"):
        load_recipe(tmp_path / "nothing.yaml")


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


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (False, "needs at least one phase"),
        ({}, "needs at least one phase"),
        ([], r"must be a mapping with losses and steps, not \[\]"),
        (3, "must be a mapping with losses and steps, not 3"),
        ({"one": False, "two": False}, "needs at least one phase"),
    ],
)
def test_a_recipe_without_a_phase_is_refused(train: Any, message: str, recipe: dict[str, Any]) -> None:
    with pytest.raises(kdtool.RecipeError, match=rf"train: {message}"):
        load_recipe({**recipe, "train": train})


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
    [("\0", "embedded null"), ("/dev/zero", "not a file"), (".", "not a file"), ("x" * 5000, "too long")],
)
def test_what_is_no_file_is_not_read(base: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(kdtool.RecipeError, match=f"cannot be read: .*{reason}"):
        load_recipe(_write(tmp_path, f"extends: {json.dumps(base)}\n"))


def test_schedule_is_evaluated_over_the_phase() -> None:
    schedule = kdtool.Schedule(1.0, 0.0, 0.2, 0.6, "cosine")
    assert [schedule.at(x) for x in (0.0, 0.1, 0.6, 1.0)] == [1.0, 1.0, 0.0, 0.0]
    assert schedule.at(0.4) == pytest.approx(0.5)
    assert kdtool.Schedule(1.0, 0.0, shape="step").at(0.99) == 1.0


def test_settings_of_components_are_checked_by_their_own_config(recipe: dict[str, Any]) -> None:
    recipe["corpus"]["documents"] = 0
    recipe["rows"]["lenght"] = 3
    recipe["trainer"]["factor"] = "3"
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.run(recipe)
    text = str(caught.value)
    assert "corpus.documents" in text
    assert "did you mean 'length'" in text
    assert "trainer.factor" in text
    assert len(caught.value.problems) == 3


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


FEW = """
from pathlib import Path
import kdtool

class Terse(kdtool.Teacher):
    "Tells of tokens alone."
    offers = frozenset({"top-k"})
    def kdtool_tokenizer(self, run): ...
    def kdtool_signal(self, batch, want): ...

class Draws(kdtool.Cache):
    "Draws tokens from logits."
    offers = frozenset({"sampled"})
    def records(
        self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]
    ) -> kdtool.SignalRequest:
        return kdtool.SignalRequest(frozenset({"logits"}))
    def kdtool_record(self, run, rows, source, folder): ...
    def kdtool_recall(self, batch, want, folder): ...

class Likeliest(Draws):
    "Keeps tokens that teachers name themselves, or makes them of logits."
    offers = frozenset({"top-k"})
    def records(
        self, want: kdtool.SignalRequest, offers: frozenset[kdtool.SignalKind]
    ) -> kdtool.SignalRequest:
        return kdtool.SignalRequest(want.kinds if want.kinds <= offers else frozenset({"logits"}))

class Likely(kdtool.TokenLoss):
    "Learns from likely tokens."
    needs = "top-k"
    def kdtool_token_loss(self, chunk): ...

class Warm(kdtool.TokenLoss):
    "Learns from tokens at a temperature."
    needs = ("sampled", "logits")
    class Config(kdtool.Config):
        at: float = 1.0
    config: Config
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.temperature = config.at
    def kdtool_token_loss(self, chunk): ...
"""


def test_signals_that_cannot_be_made_of_what_a_teacher_offers_are_refused(recipe: dict[str, Any]) -> None:
    Path("few.py").write_text(FEW, encoding="utf-8")
    recipe |= {"teacher": {"use": "./few.py:Terse"}, "signals": {"use": "./few.py:Draws"}}
    recipe["train"]["losses"] = {"warm": {"use": "./few.py:Warm"}}
    with pytest.raises(kdtool.RecipeError, match=r"signals: .* is made of logits, but teacher .* offers top-k"):
        kdtool.run(recipe)


def test_a_cache_records_what_a_teacher_without_logits_offers(recipe: dict[str, Any]) -> None:
    Path("few.py").write_text(FEW, encoding="utf-8")
    recipe |= {"teacher": {"use": "./few.py:Terse"}, "signals": {"use": "./few.py:Likeliest"}}
    recipe["train"]["losses"] = {"likely": {"use": "./few.py:Likely"}}
    recipe["control"] = False
    with pytest.raises(kdtool.KdtoolError) as caught:  # the teacher has no tokenizer, which comes later
        kdtool.check(recipe)
    assert "is made of" not in str(caught.value)


@pytest.mark.parametrize("apart", [False, True], ids=["in one phase", "in two phases"])
def test_losses_that_share_a_teacher_s_tokens_have_one_temperature(recipe: dict[str, Any], apart: bool) -> None:
    Path("few.py").write_text(FEW, encoding="utf-8")
    cold, warm = ({"use": "./few.py:Warm", "at": at} for at in (1.0, 2.0))
    own = recipe["train"]["losses"]["count"]
    losses = [{"cold": cold, "own": own}, {"warm": warm, "own": own}]
    phases = {f"p{i}": {"losses": each, "steps": 1} for i, each in enumerate(losses)}
    recipe["train"] = phases if apart else {"losses": {**losses[0], **losses[1]}, "steps": 1}
    kdtool.check({**recipe, "signals": False})
    with pytest.raises(kdtool.RecipeError, match=r"(?s)warm: works at temperature 2, .* cold works at 1"):
        kdtool.run({**recipe, "signals": {"use": "./few.py:Draws"}})


def test_control_without_a_loss_of_its_own_is_refused(recipe: dict[str, Any]) -> None:
    del recipe["train"]["losses"]["count"]
    with pytest.raises(kdtool.RecipeError, match="needs a loss that works without a teacher"):
        kdtool.run(recipe)


@pytest.mark.parametrize(
    ("below", "settings", "found"),
    [
        ("", {"train.losses": "[ce]"}, {"loss": ["ce"]}),
        ("evaluators: {one: {}, two: {}}\n", {"evaluators": "[two, three]"}, {"evaluator": ["two", "three"]}),
        (
            "evaluators: [one, two]\n",
            {"evaluators": ["three"], "evaluators.four": {}},
            {"evaluator": ["three", "four"]},
        ),
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


def test_what_a_list_replaces_leaves_no_settings(tmp_path: Path) -> None:
    recipe = load_recipe(_write(tmp_path, BASE), {"train.losses": "[ce]"})
    assert [spec.weight for spec in recipe.phases[0].losses] == [1.0]


@pytest.mark.parametrize("items", ["{use: one}", "one, one", "[one]", "1", "null", "one, {two: {}}"])
def test_a_list_of_anything_but_different_names_is_refused(tmp_path: Path, items: str) -> None:
    text = BASE.replace("losses: {forward-kl: {weight: 0.9}, ce: {weight: 0.1}}", f"losses: [{items}]")
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, f"{text}evaluators: [{items}]\n"))
    assert [(problem.key, problem.line) for problem in caught.value.problems] == [
        ("train.losses", 7),
        ("evaluators", 8),
    ]
    assert "must be a list of different names" in str(caught.value)
    assert "NAME: {use: …}" in str(caught.value)
    assert "Node" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.losses.forward-kl": False, "train.losses.ce": False}, "train.losses: is missing"),
        ({"train.losses": "[]"}, "train.losses: is missing"),
        ({"train.losses": False}, "train.losses: is missing"),
        ({"corpus": False}, "corpora: is missing"),
        ({"corpora.corpus": False}, "corpora: is missing"),
        ({"corpora": "[]"}, "corpora: is missing"),
        ({"train.corpus": False}, "train.corpora: is missing"),
        ({"student": False}, "student: is missing"),
        ({"trainer": False}, "\n  trainer: is missing"),
        ({"rows": False}, "\n  rows: is missing"),
        ({"train.rows": False}, "train.rows: is missing"),
    ],
)
def test_what_must_be_there_and_is_switched_off_is_missing(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, BASE), settings)
    assert len(caught.value.problems) == 1
    assert message in str(caught.value)


def test_all_that_a_recipe_lacks_is_named_at_once_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, "name: x\n"))
    assert {problem.key for problem in caught.value.problems} == {"corpora", "student", "train", "rows", "trainer"}


@pytest.mark.parametrize("settings", [{"student.use": 7}, {"corpora": "7"}, {"train.losses": "{ce: 7}"}, {"rows": "7"}])
def test_what_is_there_and_wrong_is_not_called_missing(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, BASE), settings)
    assert len(caught.value.problems) == 1
    assert "is missing" not in str(caught.value)


def _teachers(folder: Path, own: str) -> dict[str, str]:
    """Return the teachers, by name, of a recipe that extends the one with `teacher: {use: smollm2}`."""
    _write(folder, BASE, "base.yaml")
    found = load_recipe(_write(folder, f"extends: base.yaml\n{own}\n"))
    return {spec.name: spec.use for spec in found.shared if spec.kind == "teacher"}


BIG, SMALL = "big: {use: starcoder2}", "small: {use: smollm2}"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (f"teachers: {{{BIG}}}", {"teacher": "smollm2", "big": "starcoder2"}),
        (f"teacher: false\nteachers: {{{BIG}, {SMALL}}}", {"big": "starcoder2", "small": "smollm2"}),
        (f"teachers: {{{BIG}, {SMALL}}}\nteacher: false", {"big": "starcoder2", "small": "smollm2"}),
        (f"teacher: null\nteachers: {{{BIG}}}", {"big": "starcoder2"}),
        ("teacher: false\nteachers: [starcoder2]", {"starcoder2": "starcoder2"}),
        ("teachers: false\nteacher: starcoder2", {"teacher": "starcoder2"}),
        ("teachers: null\nteacher: {use: starcoder2}", {"teacher": "starcoder2"}),
        ("teachers: false\nteacher: false", {}),
        ("teacher: null", {}),
        ("teacher: false", {}),
    ],
)
def test_an_inherited_singular_gives_way_to_the_plural_and_the_other_way_round(
    tmp_path: Path, own: str, expected: dict[str, str]
) -> None:
    assert _teachers(tmp_path, own) == expected


def test_settings_of_an_inherited_plural_go_with_it(tmp_path: Path) -> None:
    _write(tmp_path, BASE.replace("teacher: {use: smollm2, weights: auto}", f"teachers: {{{BIG}}}"), "base.yaml")
    recipe = load_recipe(_write(tmp_path, "extends: base.yaml\nteachers: false\nteacher: {use: starcoder2, x: 1}\n"))
    (found,) = (spec for spec in recipe.shared if spec.kind == "teacher")
    assert (found.path, found.options) == ("teacher", {"x": 1})


def test_an_inherited_singular_is_removed_on_the_command_line(tmp_path: Path) -> None:
    found = load_recipe(_write(tmp_path, BASE), {"teacher": "false", "teachers.big.use": "starcoder2"})
    assert [spec.path for spec in found.shared if spec.kind == "teacher"] == ["teachers.big"]


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


@pytest.mark.parametrize("off", ["false", "null"])
def test_a_key_of_one_component_is_removed(tmp_path: Path, off: str) -> None:
    _write(tmp_path, f"{BASE}signals: {{use: sampled}}\nreporter: html\n", "base.yaml")
    found = load_recipe(_write(tmp_path, f"extends: base.yaml\nsignals: {off}\nreporter: {off}\n"))
    assert not {"cache", "reporter"} & {spec.kind for spec in found.shared}


def test_one_inherited_phase_gives_way_to_several_and_the_other_way_round(tmp_path: Path) -> None:
    _write(tmp_path, BASE, "base.yaml")
    phases = "{train: false, first: {losses: [ce], steps: 1}, second: {losses: [ce], steps: 2}}"
    several = load_recipe(_write(tmp_path, f"extends: base.yaml\ntrain: {phases}\n", "several.yaml"))
    assert [phase.name for phase in several.phases] == ["first", "second"]
    back = "{first: false, second: false, train: {losses: [ce], steps: 3}}"
    one = load_recipe(_write(tmp_path, f"extends: several.yaml\ntrain: {back}\n"))
    assert [(phase.name, phase.steps) for phase in one.phases] == [("train", 3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.steps": "ten"}, "train.steps: must be a whole number from 1 to 1,000,000,000, not 'ten'"),
        ({"train.steps": "1e9"}, "not 1000000000.0"),
        ({"train.steps": ""}, "must be a whole number from 1 to 1,000,000,000, not an empty value"),
        ({"train": {"losses": ["ce"]}}, "train.steps: is missing; train needs a whole number from 1 to 1,000,000,000"),
        ({"train": "5"}, "train: must be a mapping with losses and steps, not 5"),
        ({"seeds": "[0, 0]"}, "such as [0, 1, 2], not [0, 0]"),
        ({"seeds": "[0"}, "seeds: cannot be read as YAML: did not find expected ',' or ']'"),
        ({"corpus.share": 2}, "corpus.share: must be a number above 0 and at most 1, not 2"),
    ],
)
def test_a_mistake_shows_rule_and_value(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(kdtool.RecipeError) as caught:
        load_recipe(_write(tmp_path, BASE.replace(", steps: 20}", "}")), settings)
    assert message in str(caught.value)


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
        ("names", [], "must be a non-empty list of texts, not []"),
        ("layers", "all", "must be a whole number of at least 1 or a list of whole numbers, not 'all'"),
        ("layers", ["a"], "must be a whole number of at least 1 or a list of whole numbers, not ['a']"),
        ("how", "quick", "must be 'fast' or 'slow', not 'quick'"),
        ("pair", [1], "must be a list of 2 entries, not [1]"),
        ("title", 5, "must be text, not 5"),
        ("title", "A", "shouts (found 'A')"),
        ("learning_rate", 0, "must be a number above 0 and below 1, not 0"),
        ("lr", 0.2, "unknown setting of corpus '{use}'\n      did you mean 'learning_rate'?"),
        ("schedule", 5, "must be a mapping with the keys start, end, begin, until, shape, not 5"),
    ],
)
def test_a_mistake_in_a_setting_shows_rule_and_value_in_words_of_a_recipe(
    recipe: dict[str, Any], key: str, value: Any, message: str
) -> None:
    Path("settings.py").write_text(SETTINGS, encoding="utf-8")
    recipe["corpus"] = {"use": "./settings.py:Settings", key: value}
    with pytest.raises(kdtool.RecipeError) as caught:
        assemble(load_recipe(recipe))
    assert len(caught.value.problems) == 1
    assert f"recipe: corpus.{key}: {message.replace('{use}', './settings.py:Settings')}" in str(caught.value)


def test_a_missing_part_of_a_setting_is_called_missing(recipe: dict[str, Any]) -> None:
    Path("settings.py").write_text(SETTINGS, encoding="utf-8")
    recipe["corpus"] = {"use": "./settings.py:Settings", "schedule": {"start": 1}}
    with pytest.raises(
        kdtool.RecipeError, match=r"corpus\.schedule\.end: is missing; corpus '.*' needs a number of at"
    ):
        assemble(load_recipe(recipe))
