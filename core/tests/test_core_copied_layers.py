"""Losses on layers with a student that chooses from which of the teacher's layers it is copied when it is built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import kdtool
from toy_recipe import Recipe

OWN = """
import json
from dataclasses import replace
from pathlib import Path

import toy


class Cut(toy.Student):
    uses_seed = True
    derives_from = {"teacher": "weights"}

    def kdtool_build_student(self, run):
        run.component("teacher", toy.kdtool.Teacher).kdtool_describe(run)
        return Copy(run.seed)


class Copy(toy.Unigram):
    def __init__(self, layer):
        super().__init__({})
        self.layer = layer

    @property
    def facts(self):
        return replace(super().facts, copied_layers=(self.layer,))


class Imitate(toy.Imitate):
    def kdtool_layers(self, student, teacher):
        return [(0, student.copied_layers[0] if student.copied_layers else 0)]


class Cache(toy.Cache):
    def kdtool_record(self, run, rows, source, folder):
        (folder / "layers.json").write_text(json.dumps(source.want.layers))
        return super().kdtool_record(run, rows, source, folder)


class Trainer(toy.Trainer):
    def kdtool_train(self, run, phase, student):
        layers = [term.layers for term in phase.terms if term.layers]
        Path(f"layers-{run.seed}.json").write_text(json.dumps(layers))
        return super().kdtool_train(run, phase, student)
"""


def test_signals_have_the_layers_of_the_students_of_all_seeds_and_each_learns_from_its_own(
    recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    recipe |= {"seeds": [1, 2], "student": {"use": "./own.py:Cut"}, "signals": {"use": "./own.py:Cache"}}
    recipe |= {"trainer": {"use": "./own.py:Trainer"}, "control": False}
    recipe["train"]["losses"]["imitate"]["use"] = "./own.py:Imitate"
    first = {stage.name: stage for stage in kdtool.plan(recipe)}
    results = kdtool.run(recipe)
    (signals,) = (stage for stage in results.stages if stage.name.startswith("signals/"))
    assert json.loads((signals.path / "layers.json").read_text(encoding="utf-8")) == [1, 2]
    for seed in (1, 2):
        assert json.loads(Path(f"layers-{seed}.json").read_text(encoding="utf-8")) == [[[0, seed]]]
    assert {stage.name: stage.path for stage in results.stages} == {name: stage.path for name, stage in first.items()}
    assert results.models["student"] == replace(results.models["teacher"], copied_layers=(1,))
