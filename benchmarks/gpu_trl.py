"""TRL's DistillationTrainer on the models and sizes of `gpu_models.py`: part `trl` of `gpu.py`; imports TRL.

Its generation step is replaced by given rows, as in `trl_programs.py`; it takes a row for one document.
"""

from __future__ import annotations

import tempfile
from time import perf_counter
from typing import Any

import torch
from datasets import Dataset
from gpu_models import Sizes, make_model, make_rows
from kdtool_torch import compute_dtype, pick_device
from lockstep import Stopwatch
from trl import DistillationConfig
from trl_programs import GivenRows, Laps


def measure(sizes: Sizes) -> dict[str, Any]:
    """Train some steps; return tokens a second and, on a GPU, peak memory."""
    device = pick_device()
    dtype = compute_dtype("auto", device)
    student, teacher = make_model(sizes.student, sizes, torch.float32), make_model(sizes.teacher, sizes, dtype)
    ends: list[float] = []

    class Ends(Laps):
        """Notes when each step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """Note the time."""
            if device.type == "cuda":
                torch.cuda.synchronize()
            ends.append(perf_counter())

    rows = [
        {"prompt": "", "input_ids": list(row.input_ids)} for row in make_rows(sizes, 4 * sizes.batch, documents=1).rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(
            output_dir=folder, max_steps=sizes.steps, temperature=1.0, beta=0.5, learning_rate=1e-4,
            per_device_train_batch_size=sizes.batch, max_grad_norm=1.0, bf16=dtype == torch.bfloat16,
            gradient_checkpointing=False, optim="adamw_torch_fused", report_to=[], save_strategy="no",
            disable_tqdm=True, use_cpu=device.type == "cpu", max_completion_length=sizes.length - 1,
        )  # fmt: skip
        tokenizer = student.tokenizer.inner
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        GivenRows(
            args=config, train_dataset=Dataset.from_list(rows), model=student.model, teacher_model=teacher.model,
            processing_class=tokenizer, callbacks=[Ends(Stopwatch({}))],
        ).train()  # fmt: skip
    first = len(ends) // 2
    seconds = (ends[-1] - ends[first]) / max(1, len(ends) - 1 - first)
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {"tokens a second": sizes.batch * sizes.length / seconds, "peak GB": peak}
