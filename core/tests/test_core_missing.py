"""Everything that components lack on this machine is reported all at once, with places, before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kdtool
import pytest

LACKING = '''
from pathlib import Path

import kdtool


class Heavy(kdtool.Transform):
    """Needs two things."""

    def kdtool_check(self, run, when):
        return [text for text in ("no GPU: leave it out", "no compiler: get one") if not Path("there").exists()]

    def kdtool_close(self):
        Path("closed").touch()


class Deep(kdtool.Filter):
    """Needs another one."""

    def kdtool_check(self, run, when):
        return None if Path("there").exists() else ["no library: pip install deep"]

    def kdtool_filter(self, run, examples):
        return [None for _ in examples]


class Wrong(kdtool.Transform):
    """Says it wrongly."""

    def kdtool_check(self, run, when):
        return "no GPU"
'''


@pytest.fixture
def lacking(recipe: dict[str, Any]) -> dict[str, Any]:
    """The toy's recipe with components that lack something until a file `there` is there."""
    Path("lacking.py").write_text(LACKING, encoding="utf-8")
    recipe["train"]["transforms"] = {"heavy": {"use": "./lacking.py:Heavy"}}
    return {**recipe, "filters": {"deep": {"use": "./lacking.py:Deep"}}}


def test_all_that_is_missing_is_said_before_anything_is_made(lacking: dict[str, Any]) -> None:
    for ask in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as caught:
            ask(lacking)
        assert [(problem.key, problem.message) for problem in caught.value.problems] == [
            ("filters.deep", "no library: pip install deep"),
            ("train.transforms.heavy", "no GPU: leave it out"),
            ("train.transforms.heavy", "no compiler: get one"),
        ]
        assert Path("closed").exists()
    assert not list(Path().rglob("manifest.json"))
    assert not Path("runs").exists()  # no tracker heard of a run that could not begin
    Path("there").touch()
    kdtool.check(lacking)
    assert kdtool.run(lacking).verdict


def test_a_wrong_answer_is_the_plugins_fault(lacking: dict[str, Any]) -> None:
    lacking["train"]["transforms"]["heavy"]["use"] = "./lacking.py:Wrong"
    Path("there").touch()
    with pytest.raises(kdtool.PluginError, match=r"kdtool_check must return .*, but returned"):
        kdtool.check(lacking)


def test_identities_are_asked_of_all_components_at_once(recipe: dict[str, Any]) -> None:
    """By `check` as by a run: a missing file, of a phase's component too, stands at its key."""
    source = """
from pathlib import Path
import kdtool
from toy import Corpus, Export, Student

class Asks(Student):
    def kdtool_identity(self, run):
        return run.component("exporters.zip", kdtool.Exporter).kdtool_identity(run)

class Csv(Corpus):
    def kdtool_identity(self, run):
        return {"file": Path("tasks.csv").read_text()}

class Zip(Export):
    def kdtool_identity(self, run):
        raise kdtool.UsageError("zip.level: there is no level 12")

class Away(kdtool.Transform):
    def kdtool_identity(self, run):
        raise kdtool.ServiceError("not in the local cache")
"""
    Path("asked.py").write_text(source, encoding="utf-8")
    recipe["train"]["transforms"] = {"away": {"use": "./asked.py:Away"}}
    asked = {
        **recipe,
        "corpus": {"use": "./asked.py:Csv"},
        "student": {"use": "./asked.py:Asks"},
        "exporters": {"zip": {"use": "./asked.py:Zip"}},
    }
    for ask in (kdtool.check, kdtool.plan, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as caught:
            ask(asked)
        assert [(problem.key, problem.message) for problem in caught.value.problems] == [
            ("corpus", "corpus 'corpus' (./asked.py:Csv): there is no file tasks.csv"),
            (
                "exporters.zip",
                "zip.level: there is no level 12\n  in exporter 'exporters.zip' (./asked.py:Zip)",
            ),
        ]
    Path("tasks.csv").touch()
    fine = {**asked, "exporters": {}, "student": recipe["student"]}
    assert kdtool.check(fine)["fits"]["memory"], "what is not on this machine may be fetched by the run"
    with pytest.raises(kdtool.ServiceError, match="not in the local cache"):
        kdtool.plan(fine)


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"corpus.documents": 1}, "corpus", "gives no text of the split 'train'"),
        ({"corpus.use": "{toy}:Lines", "corpus.file": "empty"}, "corpus", "gives no text of the split 'train'"),
        ({"rows.use": "./blind.py:Blind"}, "rows", "yields no rows from 8 documents; is there enough text for one?"),
    ],
)
def test_text_without_a_row_is_refused_before_the_student_is_built(
    recipe: dict[str, Any], settings: dict[str, Any], key: str, message: str
) -> None:
    toy = recipe["corpus"]["use"].rpartition(":")[0]
    rows = "yield from (row for row in examples if not row)"
    source = f"from toy import Packer\nclass Blind(Packer):\n    def kdtool_rows(self, run, examples): {rows}\n"
    Path("blind.py").write_text(source, encoding="utf-8")
    Path("empty").touch()
    settings = {path: value.format(toy=toy) if isinstance(value, str) else value for path, value in settings.items()}
    for ask in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as caught:
            ask(recipe, settings)
        assert [(problem.key, problem.message) for problem in caught.value.problems] == [(key, message)]
    assert not list(Path("store").glob("students*")), "the student was built"


def test_split_without_a_document_for_an_evaluator_is_refused_before_anything_is_made(recipe: dict[str, Any]) -> None:
    source = """
import kdtool
from toy import Nats

class Checks(Nats):
    def kdtool_check(self, run, when):
        if when == "text" and not list(run.texts.examples("validation")):
            raise kdtool.UsageError("'validation' holds no documents")

class Unaware(Checks):
    reads_text = False
"""
    Path("checks.py").write_text(source, encoding="utf-8")
    asked = {**recipe, "evaluators": {"nats": {"use": "./checks.py:Checks"}}}
    for ask in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as caught:
            ask(asked)
        assert [(problem.key, problem.message) for problem in caught.value.problems] == [
            ("evaluators.nats", "'validation' holds no documents")
        ]
    assert kdtool.check(asked, {"evaluators.nats.use": "./checks.py:Unaware"})["fits"]["memory"]
    assert kdtool.check(asked, {"corpus.documents": 1501})["fits"]["memory"], "later documents may be of that split"


def test_component_that_names_another_wrongly_is_the_recipe_s_mistake(recipe: dict[str, Any]) -> None:
    source = """
import kdtool
from toy import Student

class Small(Student):
    class Config(kdtool.Config):
        source: str = "teacher"

    def kdtool_tokenizer(self, run):
        return run.component(self.config.source, kdtool.Teacher).kdtool_tokenizer(run)
"""
    Path("small.py").write_text(source, encoding="utf-8")
    small = {**recipe, "student": {"use": "./small.py:Small", "source": "teachr"}}
    for ask in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.UsageError, match=r"no teacher is called 'teachr'; did you mean 'teacher'\?"):
            ask(small)
    assert kdtool.check(small, {"student.source": "teacher"})["fits"]["memory"]
