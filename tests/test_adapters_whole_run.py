"""distil, then finetune with LoRA, then with QLoRA: each phase resumable, and what is exported is what was trained."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
from run_process import command, log_of, recipe_with_faults

pytestmark = pytest.mark.slow

ADAPTER = {"r": 4, "alpha": 32, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
IDS = list(range(40, 72))


@pytest.fixture
def phases(recipe: dict[str, Any]) -> dict[str, Any]:
    """The small recipe, with phases of their own corpus, transforms and trainer's settings."""
    finetune = {"losses": {"ce": {}}, "steps": 6, "trainer": {"learning_rate": 2e-2, "weight_decay": 0.1}}
    corpus = {"use": "python-source", "train_files": 4, "validation_files": 1, "test_files": 1}
    left_out = {"control", "evaluators", "reporter"}
    return {
        **{key: value for key, value in recipe.items() if key not in left_out},
        "exporters": {"safetensors": {"dtype": "float32"}},
        "train": {
            "distil": {"losses": recipe["train"]["losses"], "steps": 2},
            "finetune": {**finetune, "corpus": corpus, "transforms": {"lora": {**ADAPTER, "keep_adapter": True}}},
            "again": {**finetune, "transforms": {"qlora": ADAPTER, "gradient-checkpointing": {}}},
        },
    }


def logits(folder: Path, adapter: Path | None = None) -> Any:
    """Compute logits with transformers, and peft where an adapter is given, alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([IDS])).logits


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's own call
def test_adapters_are_merged_into_what_is_exported(phases: dict[str, Any]) -> None:
    import torch

    results = kdtool.run(phases)
    (arm,) = results.arms
    final = arm.path
    distilled, finetuned = (
        next(final.parents[1].glob(f"student-seed0-{name}-*/model")).parent for name in ("distil", "finetune")
    )
    before, after = weights(distilled / "model"), weights(finetuned / "model")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name}
    assert {name for name in after if not after[name].equal(weights(final)[name])} == {
        name for name in after if "_proj" in name
    }, "qlora rounds every linear layer to 4 bits"

    learnt = logits(distilled / "model", finetuned / "adapter")
    torch.testing.assert_close(logits(finetuned / "model"), learnt, rtol=1e-4, atol=1e-4)
    assert not learnt.allclose(logits(distilled / "model"), rtol=1e-2, atol=1e-2)
    (artifact,) = arm.artifacts
    assert logits(artifact.path).equal(logits(final))


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_killed_in_each_phase_it_ends_with_the_same_bits(phases: dict[str, Any], tmp_path: Path) -> None:
    train = phases["train"]
    file = recipe_with_faults({**phases, "train": {**train["again"]}}, tmp_path)
    changed = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**changed, "evaluators": {}, "train": train}), encoding="utf-8")
    whole, killed = tmp_path / "whole.log", tmp_path / "killed.log"
    code, said = command(file, tmp_path / "whole", tmp_path / "store", whole)
    assert code == 0, said
    ended = [words[1] for _, words in log_of(whole) if words[0] in {"made", "reused"}]
    trained = [number for number, stage in enumerate(ended) if stage == "phases:student"]
    assert len(trained) == 3
    for node in trained[1:]:
        fault = f"{node} kill-at-step 5"
        code, said = command(file, tmp_path / "killed", tmp_path / "store", killed, FAULT=fault)
        assert code == -signal.SIGKILL, said
    code, said = command(file, tmp_path / "killed", tmp_path / "store", killed)
    assert code == 0, said
    steps = [int(words[2]) for _, words in log_of(killed) if words[0] == "step"]
    assert steps == [1, 2, *(1, 2, 3, 4, 5, 4, 5, 6) * 2], "from the checkpoint of step 3"
    models = {
        path.relative_to(tmp_path / "whole"): path for path in (tmp_path / "whole").glob("*/phases/*/model/*.saf*")
    }
    assert len(models) == 3
    for name, path in models.items():
        assert (tmp_path / "killed" / name).read_bytes() == path.read_bytes(), name
