"""Everything that is missing on this machine or in the text is reported at once, with places, before it costs anything."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from toy_recipe import use

OWN = '''
import os
from pathlib import Path

import kdtool
from toy import Corpus, Export, Nats, Packer, Student, Teacher


class Heavy(kdtool.Transform):
    """Needs two things until a file `there` is there."""

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


class Blind(Packer):
    def kdtool_rows(self, run, examples):
        yield from (row for row in examples if not row)


class Picky(Nats):
    """Wants more text than there is, until a file `there` is there."""

    class Config(kdtool.Config):
        documents: int = 100
        """Documents at least."""

    def kdtool_check(self, run, when):
        if when == "text" and not Path("there").exists():
            count = len(list(run.texts.examples("validation")))
            if count < self.config.documents:
                raise kdtool.UsageError(f"{count} documents are less than {self.config.documents}")


class Unaware(Picky):
    reads_text = False


class Small(Student):
    class Config(kdtool.Config):
        source: str = "teacher"

    def kdtool_tokenizer(self, run):
        return run.component(self.config.source, kdtool.Teacher).kdtool_tokenizer(run)


class Keyless(Teacher):
    """Opens what is measured where a file `there` is."""

    class Config(Teacher.Config):
        folder: str = ""

    def kdtool_check(self, run, when):
        return [f"no such folder: {self.config.folder}"] if self.config.folder else ()

    def kdtool_open(self, run, subject):
        if subject.role == "teacher" and not Path("there").exists():
            raise kdtool.UsageError("there is no key")
        return super().kdtool_open(run, subject)


class Paid(Teacher):
    """A service with a price."""

    answer_cache_key = {"model": "paid"}

    class Config(Teacher.Config):
        key_variable: kdtool.KeyVariable | None = None

    def kdtool_estimate(self, run, ahead):
        lacks = "" if os.environ.get("PAID") else "PAID is not set; export it"
        yield kdtool.Estimate("answers", picodollars=12 * 10**11, most_picodollars=3 * 10**12, lacks=lacks)


class Choosy(kdtool.Exporter):
    """Writes one model of another kind."""

    def kdtool_check(self, run, when):
        assert not (run.folder / "phases").exists()
        if when == "student":
            return [f"cannot be written: {sorted(path.name for path in run.untrained.iterdir())}"]

    def kdtool_export(self, run, trained):
        raise AssertionError
'''


@pytest.fixture(autouse=True)
def _own() -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")


def own(name: str, **options: Any) -> dict[str, Any]:
    return {"use": f"./own.py:{name}", **options}


def assert_refused(recipe: Any, problems: list[tuple[str, str]], *ways: Any, settings: Any = None) -> None:
    for ask in ways or (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.RecipeError) as caught:
            ask(recipe, settings)
        assert [(problem.key, problem.message) for problem in caught.value.problems] == problems


def test_all_that_is_missing_is_said_before_anything_is_made(recipe: dict[str, Any]) -> None:
    recipe["train"]["transforms"] = {"heavy": own("Heavy")}
    recipe["filters"] = {"deep": own("Deep")}
    problems = [
        ("filters.deep", "no library: pip install deep"),
        ("train.transforms.heavy", "no GPU: leave it out"),
        ("train.transforms.heavy", "no compiler: get one"),
    ]
    assert_refused(recipe, problems)
    assert Path("closed").exists()
    assert not list(Path().rglob("manifest.json"))
    assert not Path("runs").exists()  # no tracker heard of a run that could not begin
    Path("there").touch()
    kdtool.check(recipe)
    assert kdtool.run(recipe).verdict
    recipe["train"]["transforms"]["heavy"] = own("Wrong")
    with pytest.raises(kdtool.PluginError, match=r"kdtool_check must return .*, but returned"):
        kdtool.check(recipe)


def test_identities_are_asked_of_all_components_at_once(recipe: dict[str, Any]) -> None:
    """By `check` as by a run: a missing file, of a phase's component too, stands at its key."""
    recipe["train"]["transforms"] = {"away": own("Away")}
    asked = {**recipe, "corpus": own("Csv"), "student": own("Asks"), "exporters": {"zip": own("Zip")}}
    level = "zip.level: there is no level 12\n  in exporter 'exporters.zip' (./own.py:Zip)"
    problems = [("corpus", "corpus 'corpus' (./own.py:Csv): there is no file tasks.csv"), ("exporters.zip", level)]
    assert_refused(asked, problems, kdtool.check, kdtool.plan, kdtool.run)
    Path("tasks.csv").touch()
    fine = {**asked, "exporters": {}, "student": recipe["student"]}
    assert kdtool.check(fine)["fits"]["memory"], "what is not on this machine may be fetched by the run"
    with pytest.raises(kdtool.ServiceError, match="not in the local cache"):
        kdtool.plan(fine)


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"corpus.documents": 1}, "corpus", "gives no text of the split 'train'"),
        ({"corpus": use("Lines", file="empty")}, "corpus", "gives no text of the split 'train'"),
        ({"rows": own("Blind")}, "rows", "yields no rows from 8 documents; is there enough text for one?"),
    ],
)
def test_text_without_a_row_is_refused_before_the_student_is_built(
    recipe: dict[str, Any], settings: dict[str, Any], key: str, message: str
) -> None:
    Path("empty").touch()
    assert_refused(recipe, [(key, message)], settings=settings)
    assert not list(Path("store").glob("students*")), "the student was built"


def test_evaluators_that_lack_text_are_refused_before_anything_is_made(recipe: dict[str, Any]) -> None:
    one = {**recipe, "evaluators": {"one": own("Picky", documents=1)}}
    two = {**recipe, "evaluators": {"many": own("Picky"), "one": own("Picky", documents=1)}}
    problems = [("evaluators.many", "0 documents are less than 100"), ("evaluators.one", "0 documents are less than 1")]
    assert_refused(two, problems)
    assert not list(Path("runs").glob("*/phases/*"))
    assert not list(Path("store").glob("students/*/model_facts.json"))
    assert kdtool.check(one, {"evaluators.one.use": "./own.py:Unaware"})["fits"]["memory"]
    assert kdtool.check(one, {"corpus.documents": 1501})["fits"]["memory"], "later documents may be of that split"
    Path("toy.yaml").write_text(json.dumps(two), encoding="utf-8")
    Path("there").touch()
    student = kdtool.run("toy.yaml").arms[0].path
    Path("there").unlink()
    with pytest.raises(kdtool.RecipeError, match="0 documents are less than 1"):
        kdtool.evaluate([student], recipe=Path("toy.yaml"))


def test_component_that_names_another_wrongly_is_the_recipe_s_mistake(recipe: dict[str, Any]) -> None:
    small = {**recipe, "student": own("Small", source="teachr")}
    for ask in (kdtool.check, kdtool.run):
        with pytest.raises(kdtool.UsageError, match=r"no teacher is called 'teachr'; did you mean 'teacher'\?"):
            ask(small)
    assert kdtool.check(small, {"student.source": "teacher"})["fits"]["memory"]


def test_what_a_teacher_lacks_to_be_measured_is_known_before_training(recipe: dict[str, Any]) -> None:
    recipe["teacher"] = own("Keyless")
    with pytest.raises(kdtool.UsageError, match="there is no key"):
        kdtool.run(recipe)
    assert not list(Path("runs").glob("*/phases/*"))
    Path("there").touch()
    names = [stage.name for stage in kdtool.run(recipe).stages]
    assert names.index("scores/nats-teacher") < names.index("phases/student-seed0-train")


def test_what_cannot_be_exported_is_refused_before_training(recipe: dict[str, Any]) -> None:
    recipe["exporters"] = {"one": own("Choosy"), "other": own("Choosy")}
    message = "cannot be written: ['counts.json']"
    assert_refused(recipe, [("exporters.one", message), ("exporters.other", message)], kdtool.run)
    assert not list(Path("runs").glob("*/phases/*"))


MISTAKES: dict[str, tuple[str, Any]] = {
    "nmae": ("nmae", 1),
    "seeds": ("seeds", "[0, 0]"),
    "train..steps": ("train..steps", 3),
    "train.steps": ("train.steps", 0),
    "train.losses.count.weight": ("train.losses.count.weight", "big"),
    "trainer.use": ("trainer.use", "nobodys"),
    "rows.lenght": ("rows.lenght", 8),
    "corpus": ("corpus", own("Csv")),
    "teacher": ("teacher", own("Keyless", folder="nowhere")),
    "student": ("student", own("Asks")),
}
"""Mistakes of all kinds, by the key of the problem: settings to lay over the recipe."""


def test_all_mistakes_of_a_recipe_come_in_one_round(recipe: dict[str, Any]) -> None:
    """Each alone, any two of them, and all together."""
    for count in (1, 2, len(MISTAKES)):
        for chosen in itertools.combinations(MISTAKES, count):
            with pytest.raises(kdtool.RecipeError) as caught:
                kdtool.check(recipe, dict(MISTAKES[key] for key in chosen))
            assert {problem.key for problem in caught.value.problems} == {*chosen}, chosen
    assert not Path("runs").exists()
    with pytest.raises(kdtool.RecipeError) as caught:
        kdtool.run(recipe, dict(MISTAKES.values()))
    assert len(caught.value.problems) == len(MISTAKES)


@pytest.mark.parametrize(
    ("settings", "out", "line", "error"),
    [
        ({}, "runs", "PAID is not set; export it", kdtool.AuthenticationError),
        (
            {"teacher.key_variable": "NO_API_KEY"},
            "runs",
            "teacher.key_variable: NO_API_KEY is not set",
            kdtool.KdtoolError,
        ),
        ({"teacher": use("Teacher")}, "own.py/runs", "own.py is a file; choose another", kdtool.StorageError),
        ({"teacher": use("Teacher")}, "locked/deep/runs", "locked is read-only; choose another", kdtool.StorageError),
    ],
)
def test_keys_and_folders_without_which_a_run_ends_are_found_by_check(
    settings: dict[str, Any], out: str, line: str, error: type[kdtool.KdtoolError], recipe: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and allowed(path, mode))
    Path("locked").mkdir()
    Path("toy.yaml").write_text(json.dumps({**recipe, "teacher": own("Paid")}), encoding="utf-8")
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    assert call(["check", "toy.yaml", "--out", out, *words]) == 2
    shown = capsys.readouterr().out
    assert shown.startswith("✗ cannot run: ")
    assert line in shown.partition("\n\n")[0]
    assert "Memory" in shown, "everything else is shown"
    with pytest.raises(error, match=re.escape(line)):
        kdtool.run("toy.yaml", settings, out=out)
    assert not Path("store").exists()


def test_check_and_run_say_what_answers_cost(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAID", "key")
    Path("toy.yaml").write_text(json.dumps({**recipe, "teacher": own("Paid")}), encoding="utf-8")
    assert call(["check", "toy.yaml"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(" · at most $3.00"), "a bound, not what is expected"
    assert call(["run", "toy.yaml"]) == 0
    assert "paid answers: $1.20 expected, at most $3.00\n" in "".join(capsys.readouterr())
