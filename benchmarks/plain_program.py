"""Distillation as one writes it by hand, as a program of `lockstep`: transformers' attention and logits of all positions.

    python benchmarks/plain_program.py FOLDER

Student, teacher, rows, precision, optimiser and loss (generalised JSD, beta 0.5) are those of the other programs: the
difference to this loop is the gain of kdtool's chunked head and attention. The folder is `training_program.prepare`'s.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

import torch
import transformers
from lockstep import Stopwatch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean divergence of two sets of logits, [N, V] each."""
    p, q = teacher.float().log_softmax(-1), student.float().log_softmax(-1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    return 0.5 * ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)).mean()


def main(work: Path) -> None:
    """Train until the driver has gone."""
    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    rows = torch.tensor(json.loads((work / "rows.json").read_text(encoding="utf-8")))
    dtype, batch = getattr(torch, settings["dtype"]), settings["batch"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    watch = Stopwatch({"torch": torch.__version__, "transformers": transformers.__version__})
    student = AutoModelForCausalLM.from_pretrained(work / "student", dtype=torch.float32).to(device).train()
    teacher = AutoModelForCausalLM.from_pretrained(settings["teacher"], dtype=dtype).to(device).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    for step in count():
        at = step * batch % (len(rows) - batch + 1)
        ids = rows[at : at + batch].to(device)
        with torch.no_grad():
            expected = teacher(ids, use_cache=False).logits[:, :-1]
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = student(ids, use_cache=False).logits[:, :-1]
        loss = jensen_shannon(logits.flatten(0, 1), expected.flatten(0, 1))
        loss.backward()
        clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        watch.lap(float(loss.detach()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
