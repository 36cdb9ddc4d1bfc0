"""adapt, distil, finetune, finetune in 4 bits, train for few bits: each phase resumable, each seen in results and report."""

from __future__ import annotations

import json
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import kdtool
import pytest
from run_process import command, log_of, recipe_with_faults

pytestmark = pytest.mark.slow

ADAPTER = {"r": 4, "alpha": 32, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
STEPS = 6
NAMES = ("adapt", "distil", "finetune", "again", "qat")

WATCH = '''
import json
from hashlib import sha256

import kdtool
import torch


class Watch(kdtool.Transform):
    """Stands behind the transform that it watches: hashes what is frozen and what learns, before and after the steps."""

    def kdtool_transform(self, student, run):
        before = self._hashes(student.model)
        yield student
        found = {"before": before, "after": self._hashes(student.model)}
        (run.folder / "watched.json").write_text(json.dumps(found), encoding="utf-8")

    def _hashes(self, model):
        return {
            kind: {
                name: sha256(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
                for name, parameter in model.named_parameters() if parameter.requires_grad is learns
            }
            for kind, learns in (("frozen", False), ("learning", True))
        }
'''


@pytest.fixture
def phases(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The small recipe with five phases: transforms, trainer's settings and one corpus of their own."""
    (tmp_path / "watch.py").write_text(WATCH, encoding="utf-8")
    watch = {"watch": {"use": f"{tmp_path / 'watch.py'}:Watch"}}
    learn = {"losses": {"ce": {}}, "steps": STEPS, "trainer": {"learning_rate": 2e-2, "weight_decay": 0.1}}
    corpus = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 1}
    installed = {found.name for found in entry_points(group="kdtool.transforms")}
    left_out = {"control", "evaluators", "exporters", "reporter"}
    return {
        **{key: value for key, value in recipe.items() if key not in left_out},
        "train": {
            "adapt": {**learn, "trains": "teacher", "transforms": {"lora": ADAPTER}},
            "distil": {"losses": recipe["train"]["losses"], "steps": STEPS},
            "finetune": {**learn, "corpus": corpus, "transforms": {"lora": ADAPTER, **watch}},
            "again": {**learn, "transforms": {"qlora": ADAPTER, **watch, "gradient-checkpointing": {}}},
            "qat": {**learn, "transforms": {"qat": {}} if "qat" in installed else {"freeze": {}}},
        },
    }


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_killed_in_each_phase_it_ends_with_the_same_bits(phases: dict[str, Any], tmp_path: Path) -> None:
    train = phases["train"]
    file = recipe_with_faults({**phases, "train": train["distil"]}, tmp_path)
    changed = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**changed, "evaluators": {}, "train": train}), encoding="utf-8")
    whole, killed = tmp_path / "whole.log", tmp_path / "killed.log"
    code, said = command(file, tmp_path / "whole", tmp_path / "whole-store", whole)
    assert code == 0, said
    ended = [words[1] for _, words in log_of(whole) if words[0] in {"made", "reused"}]
    trained = [number for number, stage in enumerate(ended) if stage in {"teachers:teacher", "phases:student"}]
    assert len({*trained}) == len(NAMES) + ended.count("teachers:teacher") - 1
    fresh = list(dict.fromkeys(trained))
    for node in [fresh[0], *fresh[-4:]]:
        code, said = command(file, tmp_path / "killed", tmp_path / "store", killed, FAULT=f"{node} kill-at-step 5")
        assert code == -signal.SIGKILL, said
    code, said = command(file, tmp_path / "killed", tmp_path / "store", killed)
    assert code == 0, said

    steps = [int(words[2]) for _, words in log_of(killed) if words[0] == "step"]
    assert steps == [1, 2, 3, 4, 5, 4, 5, 6] * len(NAMES), (
        "each goes on from the checkpoint of step 3, and none is redone"
    )
    models = _models(tmp_path / "whole", tmp_path / "whole-store")
    assert len(models) == len(NAMES)
    again = _models(tmp_path / "killed", tmp_path / "store")
    assert {name: path.read_bytes() for name, path in again.items()} == {
        name: path.read_bytes() for name, path in models.items()
    }


def _models(runs: Path, store: Path) -> dict[Path, Path]:
    found = [(path.relative_to(runs), path) for path in runs.glob("*/phases/*/model/*.safetensors")]
    return dict([*found, *((path.relative_to(store), path) for path in store.glob("teachers/*/model/*.safetensors"))])


@pytest.fixture
def finished(phases: dict[str, Any]) -> kdtool.Results:
    """A finished run with a control, and a report."""
    for phase in phases["train"].values():
        phase["steps"] = 2
    return kdtool.run({**phases, "control": {"match": "tokens", "losses": {"ce": {}}}, "reporter": "html"})


def test_phases_leave_alone_what_is_frozen_and_are_shown(finished: kdtool.Results) -> None:
    arms = {arm.arm: arm for arm in finished.arms}
    assert set(arms) == {"student", "control", "teacher"}
    assert tuple(arms["teacher"].phases) == NAMES[:1]
    assert tuple(arms["student"].phases) == NAMES[1:] == tuple(arms["control"].phases)
    tokens = [{name: done.tokens for name, done in arms[arm].phases.items()} for arm in ("student", "control")]
    assert tokens[0] == tokens[1]

    for name in ("finetune", "again"):
        for arm in ("student", "control"):
            place = finished.folder if arm == "student" else Path("store")  # runs share controls at equal tokens
            (watched,) = place.glob(f"phases/{arm}-seed0-{name}-*/watched.json")
            found = json.loads(watched.read_text(encoding="utf-8"))
            before, after = found["before"], found["after"]
            assert before["frozen"] == after["frozen"], "the base is bit-identical after the steps"
            assert len(before["frozen"]) > 10
            assert all("lora_" in learning for learning in before["learning"])
            changed = {key for key, value in before["learning"].items() if after["learning"][key] != value}
            assert changed >= {key for key in before["learning"] if "lora_B" in key}

    own = finished.data["phases"]
    assert tuple(own) == NAMES
    assert own["adapt"]["trains"] == "teacher"
    assert own["finetune"]["bytes"] < own["distil"]["bytes"] == own["again"]["bytes"]
    assert finished.report is not None
    page = finished.report.read_text(encoding="utf-8")
    for name in NAMES:
        assert f"seed 0, {name}" in page
        assert f"{name}</h" in page or f">{name}<" in page
