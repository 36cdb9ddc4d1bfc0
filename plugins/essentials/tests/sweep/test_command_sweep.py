"""Sweeps on a whole pipeline without torch: grids, labels, sharing, resuming, failing points, the table."""

from __future__ import annotations

import json
import re
import shutil
import sys
from math import prod
from pathlib import Path
from typing import Any

import kdtool
import pytest
from click.testing import CliRunner
from filelock import FileLock
from hypothesis import given, reject
from hypothesis import strategies as st
from kdtool._api import report
from kdtool._cli import call, cli
from kdtool._store.artefacts import clean
from kdtool_essentials.sweep import command, points_of, read_grid, sweep
from kdtool_testing import CommandConformance

VALUES = st.one_of(
    st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text("aAbB01_.-é [{,'\"", max_size=80),
    st.lists(st.integers(0, 3), max_size=3), st.sampled_from(["true", "'true'", "1", "'1'", "1.0", "a-b", "a--b", "A"]),
)  # fmt: skip
KEYS = st.sampled_from(["seeds", "a.x", "b.x", "b.b-x", "a.b.c", "a-b.c", "t.X", "_y"])


@given(st.data(), st.lists(KEYS, min_size=1, max_size=3, unique=True))
def test_labels_are_names_that_no_file_system_confuses_and_do_not_depend_on_other_values(
    data: st.DataObject, keys: list[str]
) -> None:
    grid = {key: data.draw(st.lists(VALUES, min_size=2, max_size=4)) for key in keys}
    try:
        points = points_of(read_grid(grid))
    except kdtool.UsageError:  # the same value twice, or no YAML
        reject()
    assert len({label.lower() for label in points}) == len(points) == prod(map(len, grid.values()))
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", label) for label in points)
    assert points.keys() >= points_of(read_grid({key: given[:2] for key, given in grid.items()})).keys()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[1, 2]", [1, 2]),
        ("[{start: 1.0, end: 0.1}, 0.5]", [{"start": 1.0, "end": 0.1}, 0.5]),
        ("['a, b', c]", ["a, b", "c"]),
        ("[true, 'true', 1, '1', 'größer']", [True, "true", 1, "1", "größer"]),
        ("12", [12]),
        ("8,12", ["8,12"]),
        ("'1'", ["1"]),
        (["1e-3", "'1'", [1]], [0.001, "1", [1]]),
    ],
)
def test_values_are_a_list_of_them_or_the_yaml_of_a_list_or_scalar(text: Any, values: list[Any]) -> None:
    assert read_grid({"key": text, "other": [1, 2]})["key"] == values


@pytest.mark.parametrize("text", ["", " ", "[1, 2", "{a: 1}", "[1], [2]", 12, {"a": 1}, ["[1"]])
def test_other_values_are_refused(text: Any) -> None:
    with pytest.raises(kdtool.UsageError, match=r"--grid key=.*expected a YAML list of values, or one scalar"):
        read_grid({"key": text})


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "nothing to sweep"),
        ({"train.steps": "12"}, "nothing to sweep"),
        ({"seeds": [], "train.steps": [1, 2]}, "seeds has no values"),
        ({"trainer.factor": ["1e-3", 0.001, 2]}, "trainer.factor has the value 0.001 more than once"),
        ({"name": ["a", "b"]}, "name cannot be swept"),
    ],
)
def test_grid_that_makes_no_sense_is_refused(recipe: dict[str, Any], grid: dict[str, Any], message: str) -> None:
    with pytest.raises(kdtool.UsageError, match=message):
        sweep(recipe, grid)


def _counting(recipe: dict[str, Any]) -> type[Any]:
    """Count, in the recipe's own plugins, how often text is read and the teacher is asked for what is stored."""
    kdtool.check(recipe)
    local = [module for name, module in sys.modules.items() if name.startswith("_kdtool_local_")]
    place = Path(__file__).resolve().parents[4] / "core" / "tests" / "toy.py"  # tests of others load copies
    toy = next(module for module in local if Path(str(module.__file__)) == place)
    toy.Events.heard.clear()
    return toy.Events  # type: ignore[no-any-return]


def _made(events: type[Any]) -> list[str]:
    heard = [line for line in events.heard if line.endswith("made")]
    events.heard.clear()
    return heard


def test_seeds_and_points_share_text_rows_signals_and_the_teachers_scores(recipe: dict[str, Any]) -> None:
    events = _counting(recipe)
    found = sweep(recipe, {"trainer.factor": [1.0, 3.0], "train.steps": [2, 4]}, {"seeds": [0, 1, 2]})
    assert [point.status for point in found.points] == ["done"] * 4
    made = _made(events)
    stages = ("text", "rows", "signals", "students", "phases")
    counts = [sum(line.startswith(f"{stage} ") for line in made) for stage in stages]
    assert counts == [1, 1, 1, 1, 4 * 3 * 3]
    teacher = [stage for point in found.points if point.results for stage in point.results.stages]
    assert [stage.reused for stage in teacher if stage.name == "scores/nats-teacher"] == [False, True, True, True]


def test_points_are_runs_with_readable_names_that_go_on_where_they_stopped(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = _counting(recipe)
    sweep(recipe, {"trainer.factor": [1.0, 3.0]})
    events.heard.clear()
    capsys.readouterr()
    found = sweep(recipe, {"trainer.factor": [1.0, 3.0, 9.0]})
    assert [point.reused for point in found.points] == [True, True, False]
    labels = ("factor-1_0", "factor-3_0", "factor-9_0")
    assert [point.folder for point in found.points] == [tmp_path / "runs" / "toy-sweep" / label for label in labels]
    assert capsys.readouterr().err.count("was finished before") == 2
    assert all(line.startswith(("phases", "scores", "exports")) for line in _made(events))
    alone = kdtool.run(recipe, {"trainer.factor": 3.0, "control": "tokens"}, out="alone")
    values = {m.subject: m.value for m in alone.measurements}
    point = found.points[1].results
    assert point is not None
    assert {m.subject: m.value for m in point.measurements if m.subject in values} == values
    assert report(found.points[1].folder).is_file()


def test_table_has_every_role_with_intervals_and_marks_the_best(recipe: dict[str, Any]) -> None:
    recipe["corpus"]["documents"] = 48  # a third of them for tests: fewer than twelve never differ
    found = sweep(recipe, {"trainer.factor": [1.0, 3.0, 1000.0]})
    (table,) = found.tables
    assert table["columns"] == ["teacher", "student", "control", "control-time", "student-json"]
    assert (table["measurement"], table["higher_is_better"], table["ranked_by"]) == ("nats", False, "student")
    values = {row["point"]: row["cells"]["student"] for row in table["rows"]}
    best = min(values, key=lambda label: values[label].value)
    assert [row["point"] for row in table["rows"] if row["standing"] == "best"] == [best]
    assert {row["standing"] for row in table["rows"]} >= {"best", "worse"}
    assert all(cell.low <= cell.value <= cell.high and cell.seeds == 2 for cell in values.values())
    assert all(row["cells"]["teacher"].low is None for row in table["rows"])
    assert "chosen by the numbers that report it" in found.caution
    assert "With one seed" not in found.caution


def test_tables_have_a_column_for_each_key_and_the_best_row_first(recipe: dict[str, Any]) -> None:
    recipe["corpus"]["documents"] = 24
    grid = {"trainer.factor": [1000.0, 1.0], "train.losses.imitate.weight": [0.5, 0.1]}
    found = sweep(recipe, grid, {"seeds": [0]})
    (table,) = found.tables
    values = [row["cells"]["student"].value for row in table["rows"]]
    assert values == sorted(values)
    lines = (found.folder / "sweep.md").read_text(encoding="utf-8").splitlines()
    heads = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| trainer.factor")]
    assert heads == [[*grid, "result", "report"], [*grid, *table["columns"], "student among the points"]]
    page = (found.folder / "sweep.html").read_text(encoding="utf-8")
    assert page.count("<th>train.losses.imitate.weight</th>") == 2
    assert page.count("<td>best</td>") == 1
    links = re.findall(r'<a href="([^"]+)">', page)
    assert len(links) == 4
    assert all((found.folder / link).is_file() for link in links)
    assert "http" not in page


def test_texts_of_users_are_escaped(recipe: dict[str, Any]) -> None:
    found = sweep(recipe, {"corpus.letter": ["<b>|", "d"]}, {"seeds": [0], "control": False})
    page = (found.folder / "sweep.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "| <b>\\| " in (found.folder / "sweep.md").read_text(encoding="utf-8")


def test_points_that_are_alike_are_a_tie(recipe: dict[str, Any]) -> None:
    found = sweep(recipe, {"exporters.json": [{"use": recipe["exporters"]["json"]["use"]}, False]}, {"seeds": [0]})
    (table,) = found.tables
    assert sorted(row["standing"] for row in table["rows"]) == ["best", "not shown to differ"]
    assert table["note"] == "no point is shown to differ from the best"
    assert "With one seed" in found.caution


@pytest.mark.parametrize(
    ("grid", "reason"),
    [({"seeds": [[0], [1]]}, "different seeds"), ({"corpus.documents": [12, 18]}, "different items")],
)
def test_what_was_measured_differently_is_not_ranked(recipe: dict[str, Any], grid: dict[str, Any], reason: str) -> None:
    found = sweep(recipe, grid)
    (table,) = found.tables
    assert reason in table["note"]
    assert {row["standing"] for row in table["rows"]} == {""}
    assert not found.caution


def test_mistakes_of_all_points_come_at_once_before_anything_runs(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(kdtool.RecipeError) as raised:
        sweep(recipe, {"trainer.factor": [1.0, -1.0, "many"], "train.stepz": [4]})
    at_all, *at_some = sorted(map(str, raised.value.problems), key=lambda problem: "at the point" in problem)
    assert "stepz" in at_all
    assert all("at the point" in problem for problem in at_some)
    with pytest.raises(kdtool.RecipeError) as raised:
        sweep(recipe, {"trainer.factor": [1.0, -1.0, "many"]})
    assert "(at the point factor--1_0)" in str(raised.value)
    assert "(at the point factor-many)" in str(raised.value)
    with pytest.raises(kdtool.RecipeError, match=r"\(at the points factor-1_0--steps--1, .*, .* and 1 more\)"):
        sweep(recipe, {"trainer.factor": [1.0, 2.0, 3.0, 4.0], "train.steps": [-1, 2]})
    assert not (tmp_path / "runs").exists()


BROKEN = """
import kdtool
class Sometimes(kdtool.Evaluator):
    \"\"\"Fails where it is told to.\"\"\"
    class Config(kdtool.Config):
        error: str = "none"
        \"\"\"What to raise.\"\"\"
    config: Config
    def kdtool_evaluate(self, run, subjects):
        errors = {"value": ValueError("bad luck"), "disk": kdtool.StorageError("disk full"), "stop": KeyboardInterrupt(),
                  "usage": kdtool.UsageError("no such luck")}
        if self.config.error in errors:
            raise errors[self.config.error]
        for subject in subjects:
            if subject.role == "student":
                yield kdtool.Measurement("luck", subject.name, "", 1.0, 1, True, settings={"error": self.config.error})
                yield kdtool.Measurement("length", subject.name, "", float(len(self.config.error)), 1, True)
"""


@pytest.fixture
def sometimes(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe, also in `recipe.yaml`, with an evaluator that fails where it is told to."""
    Path("broken.py").write_text(BROKEN, encoding="utf-8")
    recipe["evaluators"]["sometimes"] = {"use": "./broken.py:Sometimes"}
    Path("recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return recipe


def _written() -> Any:
    return json.loads(Path("runs/toy-sweep/sweep.json").read_text(encoding="utf-8"))


def test_what_is_not_measured_alike_or_not_item_by_item_is_not_tested(sometimes: dict[str, Any]) -> None:
    found = sweep(sometimes, {"evaluators.sometimes.error": ["none", "another"]})
    tables = {table["measurement"]: table for table in found.tables}
    assert tables["luck"]["note"] == "not ranked: the points were measured differently (error)"
    assert [row["standing"] for row in tables["luck"]["rows"]] == ["", ""]
    assert tables["length"]["note"] == "differences are not tested: it is not measured item by item"
    assert [(row["point"], row["standing"]) for row in tables["length"]["rows"]] == [
        ("error-another", "best value"),
        ("error-none", ""),
    ]


def test_point_that_fails_or_whose_call_is_wrong_stops_no_other_and_is_named(sometimes: dict[str, Any]) -> None:
    found = sweep(sometimes, {"evaluators.sometimes.error": ["usage", "value", "none"]})
    assert [(one.status, one.exit_code) for one in found.points] == [("failed", 2), ("failed", 1), ("done", 0)]
    assert found.exit_code == 2
    assert "no such luck" in found.points[0].error
    shown = (found.folder / "sweep.md").read_text(encoding="utf-8")
    assert "no such luck" in shown
    assert "failed: ValueError: bad luck (raised by evaluator 'evaluators.sometimes'" in shown
    points = _written()["points"]
    assert [(one["status"], one["folder"], one["report"]) for one in points] == [
        ("failed", "error-usage", None),
        ("failed", "error-value", None),
        ("done", "error-none", "error-none/report.txt"),
    ]
    assert "bad luck" in points[1]["error"]


NARROW = """
import toy
import kdtool
class Narrow(toy.Student):
    \"\"\"Knows beforehand how many layers it can have.\"\"\"
    class Config(kdtool.Config):
        layers: int = 2
        \"\"\"How many.\"\"\"
    config: Config
    def kdtool_describe(self, run):
        if self.config.layers > 4:
            raise kdtool.UsageError(f"layers: {self.config.layers} is too many; give at most 4")
        return super().kdtool_describe(run)
"""


@pytest.fixture
def narrow(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with a student that cannot have more than four layers."""
    Path("narrow.py").write_text(NARROW, encoding="utf-8")
    return {**recipe, "seeds": [0], "student": {"use": "./narrow.py:Narrow"}}


def test_impossible_point_is_known_before_the_first_one_runs_and_the_others_run(
    narrow: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(json.dumps(narrow), encoding="utf-8")
    arguments = ["sweep", "recipe.yaml", "--grid", "student.layers=[2, 9, 3]", "--set", "control=false"]
    assert call([*arguments, "--plan"]) == 0
    planned = capsys.readouterr()
    assert [line for line in planned.out.splitlines() if not line.startswith(" ")] == ["layers-2", "layers-3"]
    assert "layers-9 cannot run" in planned.err
    reason = "1 problem in the recipe:\n  student.layers: 9 is too many"
    for again in (False, True):
        assert call(arguments) == 2
        shown = capsys.readouterr()
        told, _, ran = shown.err.partition("point 1 of 3")
        assert f"layers-9 cannot run, the other points do: {reason}" in told
        assert "point 2" not in ran
        assert "point 3 of 3: layers-3" in ran
        ended = [(point["status"], point["reused"]) for point in _written()["points"]]
        assert ended == [("done", again), ("failed", False), ("done", again)]
        (row,) = (line for line in shown.out.splitlines() if line.startswith("| 9 "))
        assert "student.layers: 9 is too many; give at most 4" in row
        assert [row["point"] for row in _written()["tables"][0]["rows"]] == ["layers-2", "layers-3"]


def test_what_is_wrong_with_all_points_alike_ends_the_sweep_before_anything_runs(narrow: dict[str, Any]) -> None:
    with pytest.raises(kdtool.UsageError, match="9 is too many"):
        sweep(narrow, {"train.steps": [2, 3]}, {"student.layers": 9})
    assert not Path("runs").exists()


@pytest.mark.parametrize(("name", "error"), [("disk", kdtool.StorageError), ("stop", KeyboardInterrupt)])
def test_full_disk_and_ctrl_c_stop_the_sweep_and_leave_what_is_done(
    sometimes: dict[str, Any], name: str, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"evaluators.sometimes.error": ["none", name, "other"]}
    with pytest.raises(error):
        sweep(sometimes, grid)
    assert [point["status"] for point in _written()["points"]] == ["done", "not run", "not run"]
    if name == "stop":
        assert call(["sweep", "recipe.yaml", "--grid", "evaluators.sometimes.error=[stop, none]"]) == 130
        assert "finished work is kept, run the same command to continue" in capsys.readouterr().err


def test_command_prints_the_table_plans_and_gives_json(
    sometimes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", "recipe.yaml", "--grid", "seeds=[[0, 1], [2]]", "--grid", "train.steps=3"]

    planned = CliRunner().invoke(cli, [*arguments, "--plan"], catch_exceptions=False).output
    before, _, after = planned.partition("seeds-2")
    assert "run      text" in before
    assert "reuse    text" in after
    assert "run      training of student, seed 2" in after
    assert not Path("runs").exists()

    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "## nats (nats/byte; lower is better)" in shown.output
    assert f"tables: {Path('runs/toy-sweep/sweep.html').absolute()}" in shown.output
    capsys.readouterr()
    assert call([*arguments, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [point["reused"] for point in plain["points"]] == [True, True]
    assert plain["grid"] == {"seeds": [[0, 1], [2]]}
    failing = ["sweep", "recipe.yaml", "--grid", "evaluators.sometimes.error=[none, value]"]
    assert CliRunner().invoke(cli, failing, catch_exceptions=False).exit_code == 1


def test_missed_requirement_stops_no_point(recipe: dict[str, Any]) -> None:
    found = sweep({**recipe, "require": {"nats.nats": "< 0"}}, {"train.steps": [2, 3]}, {"seeds": [0]})
    assert [point.status for point in found.points] == ["done", "done"]
    assert [not one.met for point in found.points if point.results for one in point.results.requirements] == [True] * 2


def test_a_second_sweep_of_the_same_name_is_refused_meanwhile(recipe: dict[str, Any]) -> None:
    Path("runs/toy-sweep").mkdir(parents=True)
    with FileLock("runs/toy-sweep/.lock"), pytest.raises(kdtool.LockedError, match="another sweep works in"):
        sweep(recipe, {"train.steps": [2, 3]})


class TestSweep(CommandConformance):
    command = command
    entry_point = "sweep"


@pytest.mark.parametrize(("match", "made"), [(["tokens"], 1), (["tokens", "time"], 3)])
def test_points_share_a_control_that_they_do_not_change(recipe: dict[str, Any], match: list[str], made: int) -> None:
    """Not one whose time is compared with the student's: both are trained where the other is."""
    weights = {"train.losses.imitate.weight": [0.5, 0.1, 0.2]}
    found = sweep(recipe, weights, {"control": {"match": match}, "seeds": [0]})
    assert [point.status for point in found.points] == ["done"] * 3
    stages = [stage for point in found.points if point.results for stage in point.results.stages if not stage.reused]
    for name in ("phases/control-seed0-train", "scores/nats-control-seed0"):
        assert [stage.name for stage in stages].count(name) == made
    assert [stage.name for stage in stages].count("phases/student-seed0-train") == 3
    for point in found.points:
        assert list((point.folder / "scores").glob("nats-control-seed0-*/*.jsonl")), "its items are copied into the run"
    shutil.rmtree(found.points[0].folder)
    assert _unneeded_models() == set(), "the other points need what is there"
    for point in found.points[1:]:
        shutil.rmtree(point.folder)
    assert ("control" in _unneeded_models()) == (made == 1)


def _unneeded_models() -> set[str]:
    """Return the arms of trained models in the store that no run needs."""
    unneeded = [item.path for item in clean(Path("store").absolute()).found if item.path.parent.name == "phases"]
    return {path.name.partition("-")[0] for path in unneeded}


def test_points_are_listed_as_commands_name_them(recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    found = sweep({**recipe, "seeds": [0]}, {"trainer.factor": [1.0, 3.0]})
    kdtool.run({**recipe, "name": "other"})
    names = {f"{found.folder.name}/{point.label}" for point in found.points}
    capsys.readouterr()
    assert {run.name for run in kdtool.runs()} == names | {"other"}
    assert {run.name for run in kdtool.runs(store="other store")} == names | {"other"}
    for name in names:
        assert call(["show", name]) == 0
        assert capsys.readouterr().out
    assert call(["show", found.points[0].label]) == 2
    assert f"did you mean '{found.folder.name}/{found.points[0].label}'" in capsys.readouterr().err
