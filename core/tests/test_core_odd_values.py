"""Values, places and components that no user wants: mistakes with exit codes and remedies, never a bug of kdtool."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool._recipe.parser import load_recipe
from toy_recipe import use

OWN = """
import kdtool
from toy import Imitate, Nats, Student, Teacher

class AtWork(Nats):
    def kdtool_evaluate(self, run, subjects):
        return self.nothing

class AtBirth(Nats):
    def __init__(self, config):
        self.config = config.nothing

class Nothing(Nats):
    def kdtool_evaluate(self, run, subjects):
        yield from ()

class Undeclared(Nats):
    measurements = ("number", "of-*")
    def kdtool_evaluate(self, run, subjects):
        for subject in subjects:
            yield kdtool.Measurement("of-mine", subject.name, "count", 1.0, 1, True)
            yield kdtool.Measurement("count", subject.name, "count", 1.0, 1, True)

class Misspelt(Imitate):
    needs = "logit"

class Plain(Teacher):
    offers = "logits"

class Narrow(Student):
    class Config(kdtool.Config):
        layers: int = 1
    def kdtool_describe(self, run):
        raise kdtool.UsageError(f"layers: {self.config.layers} is more than 30")

class Lines(kdtool.Corpus):
    class Config(kdtool.Config):
        files: tuple[kdtool.RecipePath, ...] = kdtool.Field(min_length=1)
    def kdtool_examples(self, run):
        for path in self.config.files:
            yield kdtool.Example(path.name, kdtool.Text(path.read_text()), "train")
"""


@pytest.fixture(autouse=True)
def _own() -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")


@pytest.fixture
def said(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls a command with the toy recipe and one changed key, and returns the messages."""

    def run(code: int, command: str, **changes: Any) -> str:
        smaller = {**recipe, "seeds": [0], "control": False, **changes}
        Path("recipe.yaml").write_text(json.dumps(smaller), encoding="utf-8")
        assert call(command.split()) == code
        return capsys.readouterr().err

    return run


def own(name: str, **options: Any) -> dict[str, Any]:
    return {"use": f"./own.py:{name}", **options}


def message_of(recipe: Any, settings: dict[str, Any] | None = None) -> str:
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.check(recipe, settings)
    return str(caught.value)


TOO_BIG = "corpus.documents: must be within ±9,007,199,254,740,991 (2^53 - 1), not "


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"train.losses.count": use("Count", wieght=0.5)}, ["unknown setting of loss", "did you mean 'weight'?"]),
        (
            {"exporters": "safetensors"},
            ["exporters: must be a list of different names or a mapping, not 'safetensors'",
             "write `exporters: [safetensors]`; or, for a component that has settings"],
        ),
        ({"exporters": 7}, ["write `exporters: [NAME, …]`; or"]),
        ({"corpus.documents": 2**63 - 1}, [f"1 problem in the recipe:\n  {TOO_BIG}{2**63 - 1}"]),
        ({"corpus.documents": -(2**53)}, [f"{TOO_BIG}{-(2**53)}"]),
        ({"student": own("Narrow", layers=40)}, ["1 problem in the recipe:\n", " student.layers: 40 is more than 30\n"]),
        ({"seeds": [*range(20_000)]}, ["must be a list of at most 1,000 different whole numbers"]),
    ],
)  # fmt: skip
def test_an_odd_value_is_refused_with_its_place(
    recipe: dict[str, Any], settings: dict[str, Any], messages: list[str]
) -> None:
    told = message_of(recipe, settings)
    assert all(message in told for message in messages), told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has neither")
@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_pipes_and_devices_are_refused_before_they_are_opened(recipe: dict[str, Any], name: str) -> None:
    os.mkfifo("pipe")
    told = message_of({**recipe, "corpus": own("Lines", files=[name])})
    assert told.startswith("1 problem in the recipe:\n  recipe: corpus.files.0: names a pipe or a device")


def test_null_turns_off_on_the_command_line_and_means_defaults_in_a_file(recipe: dict[str, Any]) -> None:
    assert load_recipe(recipe, {"evaluators.nats": "null", "exporters": "null"}).data["evaluators"] == {"nats": False}
    Path("above.yaml").write_text("extends: below.yaml\nevaluators: {nats: null}\n", encoding="utf-8")
    Path("below.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert load_recipe(Path("above.yaml")).data["evaluators"] == recipe["evaluators"]


@pytest.mark.parametrize(("name", "line"), [("AtWork", 7), ("AtBirth", 11)])
def test_an_error_in_the_user_s_own_file_has_its_line(said: Callable[..., str], name: str, line: int) -> None:
    message = said(1, "run recipe.yaml", evaluators={"mine": own(name)})
    assert "AttributeError" in message
    assert f"(own.py:{line})" in message


def test_an_evaluator_that_yields_nothing_is_noted(said: Callable[..., str]) -> None:
    said(0, "run recipe.yaml", evaluators={"mine": own("Nothing")})
    assert "mine measured nothing of student-seed0" in kdtool.load("toy").notes


def test_wrong_declarations_are_refused_in_words(said: Callable[..., str], recipe: dict[str, Any]) -> None:
    told = said(1, "run recipe.yaml", evaluators={"mine": own("Undeclared")})
    assert "returned a measurement 'count', but its attribute `measurements` declares only number, of-*" in told
    told = said(1, "run recipe.yaml --set train.losses.imitate.use=./own.py:Misspelt")
    assert "its attribute needs must be one of 'logits', 'sampled'," in told
    assert " or tuple, but is 'logit'" in told
    assert "Literal" not in told
    assert "its attribute offers must be frozenset, but is 'logits'" in said(1, "run recipe.yaml", teacher=own("Plain"))
