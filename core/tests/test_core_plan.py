"""Changing one key redoes exactly what depends on it, and a plan says so beforehand."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest

ONE_SEED = {"seeds": [0], "control": {"match": ["tokens"]}}
TRAINED = ("phases/student", "exports", "scores/nats-student")
CONTROLLED = ("phases/control", "scores/nats-control")
CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a loss's weight": ({"train.losses.imitate.weight": 0.7}, TRAINED),
    "a loss of the control": ({"control.losses": {"other": {"use": "count"}}}, CONTROLLED),
    "steps": ({"train.steps": 5}, (*TRAINED, *CONTROLLED)),
    "the trainer": ({"trainer.factor": 2.0}, (*TRAINED, *CONTROLLED)),
    "the packer": ({"rows.length": 8}, ("rows", "signals", *TRAINED, *CONTROLLED)),
    "the corpus": ({"corpus.documents": 9}, ("text", "students", "rows", "signals", "scores", *TRAINED, *CONTROLLED)),
    "another evaluator": ({"evaluators.more": {"use": "nats"}}, ("scores/more",)),
    "another exporter": ({"exporters.second": {"use": "json"}}, ("exports/second", "scores/nats-student-seed0-second")),
    "no control": ({"control": False}, ()),
    "the signals": ({"signals": False}, TRAINED),
    "a tracker": ({"trackers": {}}, ()),
    "the name of the run's report": ({"reporter": False}, ()),
}


def _filled(change: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """Replace short names by the toy's plugins."""
    known = {"count": recipe["train"]["losses"]["count"], "nats": recipe["evaluators"]["nats"]}
    known["json"] = recipe["exporters"]["json"]

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return (
                known[value["use"]] if value.get("use") in known else {key: fill(item) for key, item in value.items()}
            )
        return value

    return {key: fill(value) for key, value in change.items()}


@pytest.mark.parametrize("name", CHANGES)
def test_change_redoes_what_depends_on_it_and_nothing_else(recipe: dict[str, Any], name: str) -> None:
    change, expected = CHANGES[name]
    recipe = {**recipe, **ONE_SEED}
    kdtool.run(recipe)
    settings = _filled(change, recipe)
    plan = kdtool.plan(recipe, settings)
    results = kdtool.run(recipe, settings)

    made = {stage.name for stage in results.stages if not stage.reused}
    assert made == {stage.name for stage in results.stages if stage.name.startswith(expected or ("nothing",))}
    assert {stage.name for stage in plan if stage.action == "run"} == made
    assert [stage.name for stage in plan] == [stage.name for stage in results.stages]
    assert all(stage.why for stage in plan if stage.action == "run")


def test_another_seed_measures_nothing_again(recipe: dict[str, Any]) -> None:
    one = kdtool.run(recipe, {"seeds": [0]})
    plan = {stage.name: stage.action for stage in kdtool.plan(recipe, {"seeds": [0, 1]})}
    assert {name for name, action in plan.items() if action == "run"} == {name for name in plan if "-seed1" in name}
    two = kdtool.run(recipe, {"seeds": [0, 1]})
    assert not {stage.name for stage in one.stages} & {stage.name for stage in two.stages if not stage.reused}
    back = kdtool.run(recipe, {"seeds": [0]})
    assert all(stage.reused for stage in back.stages)

    first, both = ({found.subject: found.value for found in results.measurements} for results in (one, two))
    named = {"student": "student-seed0", "student-json": "student-seed0-json", "control": "control-seed0",
             "control-time": "control-time-seed0", "teacher": "teacher"}  # fmt: skip
    assert first.keys() == named.keys() == {subject.name for subject in one.subjects}
    assert {named[name]: value for name, value in first.items()}.items() <= both.items()
    assert both.keys() == {subject.name for subject in two.subjects}
    assert back.measurements == one.measurements


def test_reasons_name_the_setting_and_the_stage_before(recipe: dict[str, Any]) -> None:
    recipe = {**recipe, **ONE_SEED}
    assert {stage.why for stage in kdtool.plan(recipe)} == {("nothing is there yet",)}
    assert not any(Path(name).exists() for name in ("runs", "store")), "a plan makes nothing"
    kdtool.run(recipe)
    losses = {"count": False, "more": recipe["train"]["losses"]["count"], "imitate.weight": 0.2}
    settings = {f"train.losses.{key}": value for key, value in losses.items()}
    settings |= {"rows.length": 8, "train.steps": 5, "trainer.factor": 2.0}
    why = {stage.name: stage.why for stage in kdtool.plan(recipe, settings)}
    assert why["rows"] == ("packer.length 16 → 8",)
    assert why["signals/teacher"] == ("input changed: tokenised rows",)
    assert sorted(why["phases/student-seed0-train"]) == [
        "imitate.weight 0.5 → 0.2", "input changed: tokenised rows and signals of teacher", "loss count removed",
        "loss more added", "steps 4 → 5", "trainer.factor 1.0 → 2.0",
    ]  # fmt: skip
    assert why["text"] == ()


def test_a_plan_does_not_need_the_student_whose_layers_a_loss_compares(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = {**recipe, **ONE_SEED}
    results = kdtool.run(recipe)
    (student,) = (stage.path for stage in results.stages if stage.name == "students")
    shutil.rmtree(student)
    assert {stage.name for stage in kdtool.plan(recipe) if stage.action != "reuse"} == {"students"}
    changed = {stage.name: stage for stage in kdtool.plan(recipe, {"train.steps": 5})}
    assert changed["phases/student-seed0-train"].why == ("steps 4 → 5",)
    assert changed["scores/nats-student-seed0"].action == "run"
    elsewhere = {stage.name: stage for stage in kdtool.plan(recipe, store=tmp_path / "other")}
    assert elsewhere["signals/teacher"].action == "run"
    signals = elsewhere["signals/teacher"].signals
    assert signals is not None
    assert signals.want.layers == (0,), "of the student as it is described"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("chat_fingerprint", 64 * "a", "the chat template changed"),
        ("document_start", (255,), "start of documents [] → [255]"),
    ],
)
def test_what_a_tokenizer_adds_to_text_makes_rows_and_students_anew(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, value: Any, why: str
) -> None:
    recipe = {**recipe, **ONE_SEED}
    kdtool.run(recipe)
    for module in list(sys.modules.values()):
        if module.__name__.startswith("_kdtool_local_") and str(module.__file__).endswith("toy.py"):
            monkeypatch.setattr(module.Bytes, name, value)
    plan = {stage.name: stage for stage in kdtool.plan(recipe)}
    assert plan["text"].action == "reuse"
    assert plan["rows"].why == plan["students"].why == (why,)


def _signals(recipe: dict[str, Any]) -> Any:
    (found,) = [stage.signals for stage in kdtool.plan(recipe) if stage.signals is not None]
    return found


def test_recorded_signals_are_opened_with_their_rows_and_tokenizer(recipe: dict[str, Any]) -> None:
    recipe = {**recipe, **ONE_SEED}
    ahead = _signals(recipe)
    assert not ahead.folder.exists()
    with pytest.raises(kdtool.StorageError, match="the signals of teacher are not there"), ahead.open():
        pass
    results = kdtool.run(recipe)
    made = {stage.name: stage.path for stage in results.stages}
    found = _signals(recipe)
    assert found.folder == ahead.folder == made["signals/teacher"]
    assert (found.teacher.name, found.cache.name, found.cache.kind) == ("teacher", "signals", "cache")
    assert found.want == kdtool.SignalRequest(frozenset({"logits"}), (0,))  # logits serve every temperature
    with found.open() as (rows, tokenizer, source):
        assert source.want == found.want
        assert source.signal(None).counts[str(ord("a"))] == 1.0
        assert [tokenizer.decode(row.input_ids)[:8] for row in rows] == ["document"] * len(rows)
    shutil.rmtree(made["rows"])
    with pytest.raises(kdtool.StorageError, match="the rows of the signals of teacher are not there"), found.open():
        pass


def test_what_an_interrupted_recording_has_is_opened(recipe: dict[str, Any]) -> None:
    recipe = {**recipe, **ONE_SEED}
    kdtool.run(recipe)
    whole = _signals(recipe).folder
    partial = whole.rename(whole.with_name(f"{whole.name}.partial"))
    (partial / "manifest.json").unlink()
    assert _signals(recipe).folder == partial
    with _signals(recipe).open() as (_, _, source):
        assert source.signal(None).counts
