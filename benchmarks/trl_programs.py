"""TRL's two distillation trainers as programs of `lockstep`, on the rows and the student of `training_program.prepare`.

    python trl_programs.py {distillation,gkd} FOLDER

Runs in an environment that has TRL and nothing of kdtool (`against_trl` makes it, and copies this file and `lockstep`
beside each other). `distillation` is `trl.DistillationTrainer` with its generation step replaced by the given rows: the
first token of a row is the prompt and the rest the completion, so it trains on the same tokens as the others. `gkd` is
`trl.experimental.gkd.GKDTrainer`, off-policy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from lockstep import Stopwatch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

PHASE_STEPS = 1000


class GivenRows(DistillationTrainer):  # type: ignore[misc]
    """Learns on rows of the data set in place of text that the student generates."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        ids = torch.tensor([row["input_ids"] for row in inputs], device=self.accelerator.device)
        prompt, completion = ids[:, :1], ids[:, 1:]
        return {
            "prompt_ids": prompt,
            "prompt_mask": torch.ones_like(prompt),
            "completion_ids": completion,
            "completion_mask": torch.ones_like(completion),
            "num_items_in_batch": torch.tensor(float(completion.numel())),
        }


class Laps(TrainerCallback):  # type: ignore[misc]
    """Ends the stopwatch's lap after every step, with the loss that the trainer computed last."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.losses = watch, [0.0]

    def record(self, trainer: Any) -> None:
        """Keep the losses that the trainer computes."""
        compute = trainer.compute_loss

        def recorded(*args: Any, **kwargs: Any) -> Any:
            loss = compute(*args, **kwargs)
            self.losses.append(float(loss.detach()))
            return loss

        trainer.compute_loss = recorded

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Report the step and wait for the next turn."""
        self.watch.lap(self.losses[-1])


def main(name: str, work: Path) -> None:
    """Train until the driver has gone."""
    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    watch = Stopwatch({"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__})
    dtype = getattr(torch, settings["dtype"])
    common: dict[str, Any] = {
        "output_dir": str(work / f"trl-{name}"), "max_steps": PHASE_STEPS, "temperature": 1.0, "beta": 0.5,
        "per_device_train_batch_size": settings["batch"], "learning_rate": 1e-4, "max_grad_norm": 1.0,
        "bf16": dtype == torch.bfloat16, "gradient_checkpointing": False, "optim": "adamw_torch_fused",
        "weight_decay": 0.01, "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }  # fmt: skip
    rows = json.loads((work / "rows.json").read_text(encoding="utf-8"))
    laps = Laps(watch)
    parts: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(work / "student", dtype=torch.float32),
        "teacher_model": AutoModelForCausalLM.from_pretrained(settings["teacher"], dtype=dtype),
        "processing_class": AutoTokenizer.from_pretrained(work / "student", padding_side="left"),
        "callbacks": [laps],
    }
    if name == "distillation":
        config = DistillationConfig(**common, max_completion_length=settings["length"] - 1)
        data = Dataset.from_list([{"prompt": "", "input_ids": row} for row in rows])
        trainer = GivenRows(args=config, train_dataset=data, **parts)
    else:
        config = GKDConfig(**common, lmbda=0.0, max_length=settings["length"])
        data = Dataset.from_list([{"input_ids": row} for row in rows])
        trainer = GKDTrainer(args=config, train_dataset=data, data_collator=_collate, **parts)
    laps.record(trainer)
    trainer.train()


def _collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids = torch.tensor([example["input_ids"] for example in examples])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
