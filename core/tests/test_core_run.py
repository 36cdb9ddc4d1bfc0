"""The runner on a whole pipeline without torch: arms, seeds, reuse, resume, locking, storage errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool._results.files import read_results

OWN = '''
import dataclasses
import json
import time

import kdtool
from toy import Trainer


class Other(Trainer):
    """Says that it trained on one token."""

    def kdtool_train(self, run, phase, student):
        return dataclasses.replace(super().kdtool_train(run, phase, student), tokens=1)


class Broken(kdtool.Reporter):
    """Fails."""

    def kdtool_report(self, run, results):
        raise RuntimeError("no ink")


class Lines(kdtool.Evaluator):
    """Measures with a prompt of odd lines."""

    def kdtool_evaluate(self, run, subjects):
        for subject in subjects:
            items = run.folder / "items.jsonl"
            rows = [{"item": f"{one}\\u2028\\x85", "sum": 1.0, "weight": 1.0} for one in range(2)]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\\n" for row in rows)
            items.write_text(lines, encoding="utf-8", newline="\\n")
            settings = {"prompt": "one\\u2028two\\x85"}
            yield kdtool.Measurement("lines", subject.name, "", 1.0, 2, True, items=items, settings=settings)


class Nothing(kdtool.Evaluator):
    """Measures nothing; its file takes a while to import."""

    def kdtool_evaluate(self, run, subjects):
        return []


time.sleep(0.3)
'''


@pytest.fixture(autouse=True)
def _own() -> None:
    Path("own.py").write_text(OWN, encoding="utf-8")


def test_run_trains_every_arm_and_seed_and_compares_them(recipe: dict[str, Any]) -> None:
    results = kdtool.run(recipe)
    assert [(arm.arm, arm.seed) for arm in results.arms] == [
        ("student", 0), ("student", 1), ("control", 0), ("control", 1), ("control-time", 0), ("control-time", 1),
    ]  # fmt: skip
    assert {c.against for c in results.comparisons} >= {"control", "control-time"}
    assert {m.subject for m in results.measurements} >= {"teacher", "student-seed0", "control-time-seed1"}
    assert results.report is not None
    assert results.report.read_text(encoding="utf-8") == results.verdict
    control = next(arm for arm in results.arms if arm.arm == "control")
    assert set(control.histories["train"][0].terms) == {"count"}
    assert control.histories["train"][0].terms["count"].weight == 1.0
    assert [(licensed.component, licensed.terms.licence, licensed.transfers) for licensed in results.licences] == [
        ("teacher", "Apache-2.0", ("signals",))
    ]
    artifact = results.arms[0].artifacts[0]
    assert artifact.how_to_use == f"open {artifact.path}"
    assert artifact.path.is_file()


def test_killed_training_goes_on_and_ends_like_an_uninterrupted_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    whole = kdtool.run(recipe, out="whole", store=tmp_path / "a")
    code = "import json, sys, kdtool; kdtool.run(json.loads(sys.argv[1]), out='killed', store='b')"
    command = [sys.executable, "-c", code, json.dumps(recipe)]
    for place in ("student:2", "control:1", "control-time:3"):
        died = subprocess.run(command, env={**os.environ, "TOY_DIE_AT": place}, check=False)
        assert died.returncode == 9
    subprocess.run(command, check=True)
    for arm in whole.arms:
        if arm.arm == "control-time":
            continue  # its steps follow measured time
        other = tmp_path / "killed" / arm.path.relative_to(tmp_path / "whole") / "counts.json"
        assert json.loads(other.read_text()) == json.loads((arm.path / "counts.json").read_text())


def test_a_control_that_trained_on_other_tokens_is_refused(recipe: dict[str, Any]) -> None:
    recipe["control"] = {"trainer": {"use": "./own.py:Other"}}
    with pytest.raises(
        kdtool.UsageError, match=r"control: it trained on 1 token, the student on 64; give the control's"
    ):
        kdtool.run(recipe)


def test_check_says_what_would_be_used(recipe: dict[str, Any]) -> None:
    found = kdtool.check(recipe)
    assert found["arms"] == ["student", "control", "control-time"]
    assert found["models"]["teacher"]["parameters"] == 257
    assert [licensed["terms"]["licence"] for licensed in found["licences"]] == ["Apache-2.0"]


def test_phase_has_its_own_text_rows_teacher_and_signals(recipe: dict[str, Any]) -> None:
    kdtool.run(recipe)
    first = recipe["train"]
    own = {key: recipe[key] for key in ("rows", "teacher", "signals")}
    second = {**first, **own, "corpus": {**recipe["corpus"], "documents": 6}, "steps": 2}
    plain = {"losses": {"count": recipe["train"]["losses"]["count"]}, "steps": 1}
    results = kdtool.run({**recipe, "train": {"first": first, "second": second, "third": plain}, "control": False})
    stages = {stage.name: stage for stage in results.stages}
    assert {name for name in stages if name.startswith(("text", "rows", "signals"))} == {
        "text", "text/second", "rows", "rows/second", "signals/teacher",
        "signals/second-train.second.signals-train.second.teacher",
    }  # fmt: skip
    assert stages["signals/teacher"].reused
    assert not stages["rows/second"].reused
    assert results.data["rows"] == 8 + 4
    assert list(results.arms[0].phases) == ["first", "second", "third"]


def test_phase_switches_the_recipes_signals_off(recipe: dict[str, Any]) -> None:
    results = kdtool.run({**recipe, "train": {**recipe["train"], "signals": False}})
    assert not [stage for stage in results.stages if stage.name.startswith("signals")]
    assert results.arms[0].phases["train"].steps == 4


def test_a_report_that_fails_leaves_the_results(recipe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no ink"):
        kdtool.run({**recipe, "reporter": {"use": "./own.py:Broken"}})
    kept = read_results(tmp_path / "runs" / "toy")
    assert kept.report is None
    assert kept.measurements


def test_line_ends_of_unicode_are_text(recipe: dict[str, Any]) -> None:
    """JSON may hold them as they are, and evaluators of others write their items so."""
    results = kdtool.run({**recipe, "evaluators": {"lines": {"use": "./own.py:Lines"}}})
    assert {one.settings["prompt"] for one in results.measurements} == {"one\u2028two\x85"}
    assert next(one.items for one in results.comparisons if one.arm == "student") == 2


def test_runs_in_threads_share_code_and_store_and_end_as_if_alone(recipe: dict[str, Any]) -> None:
    recipe["evaluators"]["slow"] = {"use": "./own.py:Nothing"}
    recipe = {**recipe, "control": "tokens"}
    streams = sys.stdout, sys.stderr
    together = threading.Barrier(3)

    def run(factor: float) -> dict[str, float]:
        together.wait()
        results = kdtool.run(recipe, {"name": f"f{factor:.0f}", "trainer.factor": factor}, out="threads")
        return {measurement.subject: measurement.value for measurement in results.measurements}

    factors = (1.0, 3.0, 9.0)
    with ThreadPoolExecutor(len(factors)) as pool:
        found = list(pool.map(run, factors))
    assert (sys.stdout, sys.stderr) == streams
    for factor, values in zip(factors, found, strict=True):
        results = kdtool.run(recipe, {"trainer.factor": factor}, out="alone", store="alone")
        assert values == {measurement.subject: measurement.value for measurement in results.measurements}
