"""Corpora that take a teacher's text, or another corpus's: what is checked, what it depends on, and what is learned from."""

from __future__ import annotations

import json
from pathlib import Path

import kdtool
import pytest
from toy_recipe import Recipe, use

ASKING = """
import kdtool


class Speaker(kdtool.Teacher):
    class Config(kdtool.Config):
        word: str = "yes"
        mute: bool = False

    def __init__(self, config):
        super().__init__(config)
        self.offers = frozenset({"logits"}) if config.mute else frozenset({"logits", "text"})

    def kdtool_signal(self, batch, want):
        raise NotImplementedError

    def kdtool_answer(self, requests):
        for request in requests:
            yield kdtool.TextAnswer(request.id, self.config.word, "stop", 1, 1)


class Asking(kdtool.Corpus):
    class Config(kdtool.Config):
        ask: str = "teacher"
        about: str = ""

    def __init__(self, config):
        super().__init__(config)
        self.derives_from = {config.ask: "text", **({config.about: "text"} if config.about else {})}

    def kdtool_examples(self, run):
        prompts = ["one", "two"]
        if self.config.about:
            prompts = [example.id for example in run.component(self.config.about, kdtool.Corpus).kdtool_examples(run)]
        requests = [kdtool.Request(prompt, prompt, 4) for prompt in prompts]
        for number, answer in enumerate(run.component(self.config.ask, kdtool.Teacher).kdtool_answer(requests)):
            split = "test" if number == 0 else "train"
            yield kdtool.Example(answer.id, kdtool.Text(answer.text * 20), split)
"""


@pytest.fixture
def asking(recipe: Recipe, tmp_path: Path) -> Recipe:
    """The toy recipe, its student learning by `count` alone what the teacher answers."""
    file = tmp_path / "asking.py"
    file.write_text(ASKING, encoding="utf-8")
    recipe["teacher"] = {"use": f"{file}:Speaker"}
    recipe["corpus"] = {"use": f"{file}:Asking"}
    recipe["train"]["losses"].pop("imitate")
    return {**recipe, "signals": False, "control": False, "evaluators": {}, "seeds": [0]}


def _learned(results: kdtool.Results) -> set[str]:
    (text,) = (stage.path for stage in results.stages if stage.name == "text")
    return {json.loads(line)["text"][:3] for line in (text / "train.jsonl").read_text("utf-8").splitlines()}


def test_the_teacher_that_answers_is_part_of_the_text(asking: Recipe) -> None:
    assert _learned(kdtool.run(asking)) == {"yes"}
    changed = {stage.name: stage.action for stage in kdtool.plan(asking, {"teacher.word": "nay"})}
    assert changed["text"] == changed["rows"] == "run"
    assert _learned(kdtool.run(asking, {"teacher.word": "nay"})) == {"nay"}


def test_who_only_shows_itself_is_no_part_of_the_text(recipe: Recipe) -> None:
    recipe["teachers"] = {"teacher": recipe.pop("teacher"), "other": use("Teacher")}
    recipe["train"]["losses"]["imitate"]["teacher"] = "teacher"
    kdtool.run(recipe)
    del recipe["teachers"]["other"]
    assert {stage.name: stage.action for stage in kdtool.plan(recipe)}["text"] == "reuse"


def test_a_corpus_whose_text_is_taken_gives_none_itself(asking: Recipe) -> None:
    own, toy = asking.pop("corpus"), use("Corpus", documents=4)
    asking["corpora"] = {"prompts": toy, "answers": {**own, "about": "corpora.prompts"}}
    results = kdtool.run(asking)
    assert results.data["splits"]["train"]["documents"] == 3
    assert _learned(results) == {"yes"}
    changed = {stage.name: stage.action for stage in kdtool.plan(asking, {"corpora.prompts.documents": 5})}
    assert changed["text"] == "run"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"corpus.ask": "big"}, "corpus: takes text of 'big', which is missing\n +there are: teacher"),
        ({"teacher.mute": True}, "corpus: takes text of teacher .*, which offers logits"),
        ({"corpus.ask": "student"}, "corpus: takes text of student, which is a student"),
        ({"corpus.about": "corpus"}, "corpus: takes text of corpus, which takes something of it in turn"),
    ],
)
def test_what_cannot_be_taken_is_a_recipe_error(asking: Recipe, settings: Recipe, message: str) -> None:
    with pytest.raises(kdtool.RecipeError, match=message):
        kdtool.check(asking, settings)
