"""Each block of docs/papers.md trains a tiny student for two steps a phase, on all the losses that it names."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import kdtool
import pytest
import yaml
from document_blocks import Block, blocks
from kdtool_testing.sandbox import sandbox_is_there
from kdtool_testing.tiny_models import tiny_model
from packages import ROOT

PAGE = ROOT / "docs" / "papers.md"
TEXT = PAGE.read_text(encoding="utf-8")
METHODS = [line.removeprefix("## ") for line in TEXT.splitlines() if line.startswith("## ")]
BLOCKS = dict(zip(METHODS, blocks(PAGE, TEXT), strict=True))


def problem(number: int) -> str:
    """Return a line of MBPP."""
    tests = [f"assert f(1) == {number}"]
    about = {"task_id": number, "text": "Add.", "code": f"def f(n):\n    return n + {number - 1}", "test_list": tests}
    return json.dumps({**about, "test_setup_code": "", "challenge_test_list": []}) + "\n"


def test_at_least_twelve_methods_name_their_paper_and_what_differs() -> None:
    assert len(METHODS) >= 12
    for method in METHODS:
        assert f"| [{method}](#{method.lower().replace(' ', '-')}) | [" in TEXT
        section = TEXT.partition(f"\n## {method}\n")[2].partition("\n## ")[0]
        assert section.count("\nDifferent: ") == 1, method


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_the_recipe_trains_on_its_losses(block: Block, recipe: dict[str, Any], tmp_path: Path) -> None:
    pairs = [{"prompt": f"x{n} =", "chosen": f" {n}\n", "rejected": f" {n + 1}\n"} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
    part = yaml.safe_load(block.text)
    if part.get("corpus", {}).get("use") == "mbpp":
        if not sandbox_is_there():
            pytest.skip("no sandbox on this machine")
        (tmp_path / "mbpp.jsonl").write_text("".join(map(problem, (*range(601, 621), 511, 11))), "utf-8")
    for key in ("signals", "control", "exporters", "evaluators"):
        recipe.pop(key)
    if "corpora" in part:
        recipe.pop("corpus")
    if "teachers" in part:
        model = recipe.pop("teacher")
        part["teachers"] = {
            name: {**model} if teacher["use"] == "causal-lm" else teacher for name, teacher in part["teachers"].items()
        }
    if part.get("student", {}).get("use") == "pretrained":  # a mixture of experts with the teacher's tokens
        part["teacher"], part["student"]["model"] = recipe["teacher"], str(tmp_path / "student")
        shutil.copytree(recipe["teacher"]["model"], tmp_path / "student")
        vocabulary = json.loads((tmp_path / "student" / "config.json").read_text("utf-8"))["vocab_size"]
        tiny_model("granitemoe", vocabulary=vocabulary, num_local_experts=4).model.save_pretrained(tmp_path / "student")
    recipe |= part
    recipe["trainer"] = {"use": "standard", "batch": 2, "dtype": "float32", "log_every": 1, **part.get("trainer", {})}
    phases = [part["train"]] if "losses" in part["train"] else [*part["train"].values()]
    for phase in phases:
        phase["steps"] = 2
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    results = kdtool.run(tmp_path / "recipe.yaml")
    files = results.folder.glob("phases/student-*/history.jsonl")
    steps = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    taught = [phase for phase in phases if phase.get("trains") != "teacher"]
    assert len(steps) == 2 * len(taught)
    trained = sorted([*step["terms"]] for step in steps)
    assert trained == sorted(sorted(phase["losses"]) for phase in taught for _ in range(2))
    assert all(math.isfinite(step["loss"]) and step["gradient_norm"] > 0 for step in steps)
