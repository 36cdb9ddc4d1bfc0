"""Stored answers of a teacher survive changes elsewhere in the recipe, and interrupted runs."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import kdtool
import pytest
from kdtool._errors import KdtoolError
from test_core_derives_from import ASKING
from test_core_derives_from import asking as asking  # noqa: PLC0414
from toy_recipe import Recipe, use

COUNTING = """
class Counting(Speaker):
    class Config(Speaker.Config):
        fails_at: str = kdtool.Field("", json_schema_extra={"affects_results": False})
        refuses: str = kdtool.Field("", json_schema_extra={"affects_results": False})

    def kdtool_answer(self, requests):
        for request in requests:
            if request.prompt == self.config.fails_at:
                raise kdtool.UsageError("no more")
            with open("asked", "a") as file:
                print(request.prompt, file=file)
            refuses = request.prompt == self.config.refuses
            yield kdtool.TextAnswer(request.id, self.config.word, "refused" if refuses else "stop", 1, 1)


class Served(Counting):
    class Config(Counting.Config):
        licence: str = ""

    def __init__(self, config):
        super().__init__(config)
        self.answer_cache_key = {"word": config.word}

    def kdtool_open(self, run, subject):
        return Opened(self) if subject.role == "teacher" else None


class Opened(kdtool.Runtime):
    def __init__(self, teacher):
        self.teacher = teacher

    def answer(self, requests):
        return self.teacher.kdtool_answer(requests)


class Slotted(Opened):
    __slots__ = ("answer",)

    def __init__(self, teacher):
        super().__init__(teacher)
        self.answer = teacher.kdtool_answer


class Storing(Served):
    stores_answers = True


class Measuring(kdtool.Evaluator):
    "Asks what the corpus asks, and more."

    class Config(kdtool.Config):
        more: str = "three"

    def kdtool_evaluate(self, run, subjects):
        for subject in subjects:
            if subject.role == "teacher":
                with kdtool.open_subject(run, subject).value as runtime:
                    answers = list(runtime.answer(kdtool.Request(p, p, 4) for p in ("one", self.config.more)))
                yield kdtool.Measurement("right", subject.name, "fraction", 0.5, len(answers), True)


class Timing(Measuring):
    "Measures speed, which stored answers would not show."

    measures_jointly = True


class Keeping(kdtool.Filter):
    def kdtool_filter(self, run, examples):
        return [None] * len(examples)
"""
KEEPING = {"filters": {"keeping": {"use": "counting.py:Keeping"}}}


@pytest.fixture
def counted(asking: Recipe, tmp_path: Path) -> Recipe:
    (tmp_path / "counting.py").write_text(ASKING + COUNTING, encoding="utf-8")
    return {**asking, "trackers": {}, "teacher": {"use": f"{tmp_path}/counting.py:Counting"}}


def asked() -> list[str]:
    """Return what the teacher was asked since the last call."""
    file = Path("asked")
    lines = file.read_text(encoding="utf-8").split() if file.is_file() else []
    file.unlink(missing_ok=True)
    return lines


def changes(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes whose text is another one, though the teacher is asked the same."""
    yield {**recipe, **KEEPING}
    corpora = {"corpus": recipe["corpus"], "other": use("Corpus")}
    plain = {key: value for key, value in recipe.items() if key != "corpus"}
    yield {**plain, "corpora": corpora}
    yield {**plain, "corpora": {name: {**one, "share": 0.5} for name, one in corpora.items()}}


def test_nothing_is_asked_again_because_something_else_changed(
    counted: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    kdtool.run(counted)
    assert "reused: not asked" not in "".join(capsys.readouterr())
    assert asked() == ["one", "two"]
    for number, changed in enumerate(changes(counted)):
        results = kdtool.run({**changed, "name": f"changed{number}"})
        assert not {stage.name: stage.reused for stage in results.stages}["text"]
        assert asked() == []
        assert "2 answers of teacher reused: not asked for again" in "".join(capsys.readouterr())
    kdtool.run(counted, {"teacher.word": "nay"})
    assert asked() == ["one", "two"]


@pytest.mark.parametrize("opened", ["Opened", "Slotted"])
def test_evaluators_ask_a_service_nothing_twice(counted: Recipe, tmp_path: Path, opened: str) -> None:
    file = tmp_path / "counting.py"
    file.write_text(file.read_text("utf-8").replace("Opened(self)", f"{opened}(self)"), encoding="utf-8")
    evaluators = {"measuring": {"use": "counting.py:Measuring"}}
    served = {**counted, "teacher": {"use": "counting.py:Served"}, "evaluators": evaluators}
    kdtool.run(served)
    assert asked() == ["one", "two", "three"]
    kdtool.run({**served, "name": "again"}, {"evaluators.measuring.more": "two"})
    assert asked() == []
    kdtool.run({**served, "name": "timed", "evaluators": {"timing": {"use": "counting.py:Timing"}}})
    assert asked() == ["one", "three"]


@pytest.mark.parametrize(
    "change",
    [
        "PRAGMA user_version = 7",
        "CREATE TRIGGER own AFTER DELETE ON answer BEGIN SELECT 1; END",
        "CREATE VIEW own AS SELECT 1",
        "CREATE INDEX own ON answer (hex(answer))",
        "ALTER TABLE answer ADD COLUMN own CHECK (own IS NULL)",
        "DROP TABLE answer",
    ],
)
def test_a_file_of_another_version_or_with_other_tables_is_refused_and_kept(counted: Recipe, change: str) -> None:
    kdtool.run(counted)
    asked()
    with closing(sqlite3.connect("store/answers.sqlite")) as database:
        database.execute(change)
    with pytest.raises(kdtool.KdtoolError, match=r"answers.sqlite.*(format 7.*move the file away|triggers or views)"):
        kdtool.run({**counted, **KEEPING})
    assert asked() == []


@pytest.mark.parametrize("text", ["", "1", "{}", "[" * 100_000, '{"id": "", "text": 1}'])
def test_a_changed_answer_is_named_and_asked_again_and_a_damaged_file_is_an_error(
    counted: Recipe, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = "answer = ?, sha256 = ?" if text else "answer = replace(answer, 'yes', 'yea')"
    change = f"UPDATE answer SET {changed} WHERE rowid = 1"  # noqa: S608
    kdtool.run(counted)
    asked()
    file = Path("store/answers.sqlite")
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(change, (text, sha256(text.encode()).hexdigest()) if "?" in change else ())
    filtered, mixed, _ = changes(counted)
    kdtool.run(filtered)
    assert len(asked()) == 1
    said = "".join(capsys.readouterr())
    assert "1 answer of teacher in answers.sqlite changed on disk: asking again" in said
    kdtool.run({**mixed, "name": "again"})
    assert asked() == [], "the answer was stored in place of the changed one"
    file.write_bytes(b"no database" * 100)
    with pytest.raises(kdtool.StorageError, match=r"answers of teachers cannot be kept in .*answers"):
        kdtool.run({**mixed, "name": "damaged"}, {"corpora.other.documents": 9})


def test_a_stored_answer_waits_for_no_disk_and_outlives_the_process(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
import kdtool
database = kdtool.open_answers(Path(sys.argv[1]))
for number in range(1000):
    database.execute("INSERT INTO answer VALUES (?, 'yes', '')", (str(number),))
os.kill(os.getpid(), signal.SIGKILL)
"""
    file = tmp_path / "answers.sqlite"
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == -signal.SIGKILL
    with closing(kdtool.open_answers(file)) as database:
        assert database.execute("SELECT COUNT(*) FROM answer").fetchone() == (1000,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA synchronous").fetchone() == (1,), "no sync for each answer"


def test_answers_are_synced_before_the_text_that_has_them(counted: Recipe, tmp_path: Path) -> None:
    file = Path("store/answers.sqlite")
    with closing(kdtool.open_answers(file)) as other:  # the last one to close it would sync, too
        assert other.execute("SELECT COUNT(*) FROM answer").fetchone() == (0,)
        kdtool.run(counted)
        (tmp_path / "synced").write_bytes(file.read_bytes())
    with closing(sqlite3.connect(tmp_path / "synced")) as database:
        assert database.execute("SELECT COUNT(*) FROM answer").fetchone() == (2,)


def test_processes_make_one_file_together(tmp_path: Path) -> None:
    code = "import sys, pathlib, kdtool; [kdtool.open_answers(pathlib.Path(one)).close() for one in sys.argv[1:]]"
    files = [str(tmp_path / f"{number}.sqlite") for number in range(50)]
    processes = [subprocess.Popen([sys.executable, "-c", code, *files]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_teacher_that_stores_answers_itself_is_left_to_it(counted: Recipe) -> None:
    storing = {**counted, "teacher": {"use": "counting.py:Storing"}}
    kdtool.run(storing)
    kdtool.run({**storing, **KEEPING, "name": "again"})
    assert asked() == ["one", "two"] * 2
    assert not list(Path("store").glob("answers*"))


def test_a_teacher_with_an_answer_cache_key_is_asked_again_only_where_that_changes(
    counted: Recipe, tmp_path: Path
) -> None:
    file = tmp_path / "counting.py"
    served = {**counted, "teacher": {"use": "counting.py:Served"}}
    kdtool.run(served)
    assert asked() == ["one", "two"]
    results = kdtool.run(served, {"teacher.licence": "mit"})
    assert not {stage.name: stage.reused for stage in results.stages}["text"]
    file.write_text(f"{file.read_text(encoding='utf-8')}\n# another version\n", encoding="utf-8")
    results = kdtool.run(served)
    assert not {stage.name: stage.reused for stage in results.stages}["text"]
    assert asked() == []
    kdtool.run(served, {"teacher.word": "nay"})
    assert asked() == ["one", "two"]


def test_a_refusal_is_asked_again_for_another_text(counted: Recipe) -> None:
    kdtool.run(counted, {"teacher.refuses": "two"})
    asked()
    kdtool.run({**counted, **KEEPING, "name": "again"})
    assert asked() == ["two"]


ONE = "run.component(self.config.ask, kdtool.Teacher).kdtool_answer(requests)"
BROADCAST = "run.hook.kdtool_answer(requests)[self.config.ask]"
BOUND = "run.bound('kdtool_answer')[self.config.ask](requests)"


@pytest.mark.parametrize("calling", [ONE, ONE.replace("(requests)", "(requests=requests)"), BROADCAST, BOUND])
def test_answers_before_a_failure_are_kept_in_every_way_of_calling_the_hook(
    counted: Recipe, tmp_path: Path, calling: str
) -> None:
    file = tmp_path / "asking.py"
    source = file.read_text(encoding="utf-8")
    assert source.count(ONE) == 1
    file.write_text(source.replace(ONE, calling), encoding="utf-8")
    with pytest.raises(KdtoolError, match="no more") as raised:
        kdtool.run(counted, {"teacher.fails_at": "two"})
    assert "teacher 'teacher'" in raised.value.__notes__[0]
    assert asked() == ["one"]
    kdtool.run(counted)
    assert asked() == ["two"]
    kdtool.run({**counted, **KEEPING, "name": "again"})
    assert asked() == []
